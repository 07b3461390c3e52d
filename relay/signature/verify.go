// Package signature signs webhook requests, checks their signatures, and
// explains why one is wrong. Receivers written in Go can import it:
//
//	body, err := io.ReadAll(r.Body) // the raw bytes, before any JSON parser
//	…
//	if err := signature.Verify(secret, r.Header, body); err != nil {
//		http.Error(w, "invalid signature", http.StatusUnauthorized)
//		return
//	}
//
// A request carries two signatures. Both are HMAC-SHA256:
//
//	X-UserHero-Signature   sha256= and lower-case hex, over the body
//	webhook-signature      v1, and base64, over id.timestamp.body (Standard Webhooks 1.0)
//
// If a webhook has a signing key, webhook-signature also has asymmetric signatures: v1a,
// and base64. VerifyPublic verifies them with the public key.
//
// The package promises that Verify compares in constant time, and that Verify and Explain
// accept every signature of a Signer. It knows nothing of webhooks, events and HTTP
// servers, and imports only the standard library. Its tests use the vectors of RFC 4231
// and of the Standard Webhooks specification.
package signature

import (
	"crypto/hmac"
	"errors"
	"net/http"
	"strconv"
	"strings"
)

const (
	plainHeader    = "X-UserHero-Signature"
	standardHeader = "webhook-signature"
	plainPrefix    = "sha256="
	standardPrefix = "v1,"
)

// Errors of Verify.
var (
	// ErrMissing: the request has no signature. Either its webhook has no secret, or a
	// proxy between relay and receiver removed the headers.
	ErrMissing = errors.New("the request has no signature")
	// ErrWrong: no signature of the request was made with this secret over this
	// body.
	ErrWrong = errors.New("the signature is wrong")
)

// Verify checks whether a request with these headers and this body was signed with the
// secret. It returns nil if X-UserHero-Signature or one of the signatures in
// webhook-signature is right. Otherwise it returns ErrMissing, ErrWrong, or an error about
// the secret. Pass the request's body byte for byte.
//
// Verify does not check the time. A receiver that handles each webhook-id only once is safe
// from repeated requests, however late they come.
func Verify(secret string, header http.Header, body []byte) error {
	signer, err := NewSigner(secret)
	if err != nil {
		return err
	}
	plain, standard := header.Get(plainHeader), header.Get(standardHeader)
	if plain == "" && standard == "" {
		return ErrMissing
	}
	if hmac.Equal([]byte(plain), signer.AppendPlain(nil, body)) {
		return nil
	}
	timestamp, err := strconv.ParseInt(header.Get("webhook-timestamp"), 10, 64)
	if err != nil {
		return ErrWrong
	}
	want := signer.AppendStandard(nil, header.Get("webhook-id"), timestamp, body)
	for _, one := range strings.Fields(standard) {
		if hmac.Equal([]byte(one), want) {
			return nil
		}
	}
	return ErrWrong
}
