package relay

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"hash"
	"strconv"
	"strings"
	"sync"
)

// secretPrefix marks the secrets of Standard Webhooks 1.0, whose rest is the
// key in base64.
const secretPrefix = "whsec_"

// signingKey is the key that a secret's Standard Webhooks signature uses.
func signingKey(secret string) ([]byte, error) {
	encoded, ok := strings.CutPrefix(secret, secretPrefix)
	if !ok {
		return []byte(secret), nil
	}
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		key, err = base64.RawStdEncoding.DecodeString(encoded)
	}
	if err != nil || len(key) == 0 {
		return nil, errors.New("what follows whsec_ must be base64")
	}
	return key, nil
}

// signer signs with one secret, in both ways:
//
//	X-UserHero-Signature   sha256= and hex HMAC-SHA256(secret, body)
//	webhook-signature      v1, and base64 HMAC-SHA256(key, id.timestamp.body)
type signer struct {
	plain, standard sync.Pool // of *mac
}

// mac is a keyed hash that is used again, and room for what goes in and out.
type mac struct {
	hash.Hash
	head [64]byte
	sum  [sha256.Size]byte
}

// newSigner is nil for an empty secret: nothing is signed.
func newSigner(secret string) (*signer, error) {
	if secret == "" {
		return nil, nil
	}
	key, err := signingKey(secret)
	if err != nil {
		return nil, err
	}
	s := new(signer)
	s.plain.New = func() any { return &mac{Hash: hmac.New(sha256.New, []byte(secret))} }
	s.standard.New = func() any { return &mac{Hash: hmac.New(sha256.New, key)} }
	return s, nil
}

// appendSignature appends the value of X-UserHero-Signature.
func (s *signer) appendSignature(b, body []byte) []byte {
	h := s.plain.Get().(*mac)
	defer s.plain.Put(h)
	h.Reset()
	_, _ = h.Write(body) // hashes do not fail
	return hex.AppendEncode(append(b, "sha256="...), h.Sum(h.sum[:0]))
}

// appendStandard appends a value of webhook-signature.
func (s *signer) appendStandard(b []byte, id string, timestamp int64, body []byte) []byte {
	h := s.standard.Get().(*mac)
	defer s.standard.Put(h)
	h.Reset()
	head := append(append(h.head[:0], id...), '.')
	head = append(strconv.AppendInt(head, timestamp, 10), '.')
	_, _ = h.Write(head)
	_, _ = h.Write(body)
	return base64.StdEncoding.AppendEncode(append(b, "v1,"...), h.Sum(h.sum[:0]))
}
