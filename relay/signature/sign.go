package signature

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"hash"
	"strconv"
	"strings"
	"sync"
)

// secretPrefix marks the secrets of Standard Webhooks 1.0. The rest of such a
// secret is the key in base64.
const secretPrefix = "whsec_"

// NewSecret makes a secret of Standard Webhooks 1.0: whsec_ and 32 random bytes
// in base64.
func NewSecret() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return secretPrefix + base64.StdEncoding.EncodeToString(b[:])
}

// standardKey returns the key with which a secret signs webhook-signature.
func standardKey(secret string) ([]byte, error) {
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

// Signer makes both signatures with one secret. It is safe for concurrent use.
type Signer struct {
	plain, standard sync.Pool // of *mac
}

// mac is a reusable keyed hash, with space for its input and output.
type mac struct {
	hash.Hash
	head [64]byte
	sum  [sha256.Size]byte
}

// NewSigner makes a signer. The secret must not be empty, and if it begins with
// whsec_, the rest must be base64.
func NewSigner(secret string) (*Signer, error) {
	if secret == "" {
		return nil, errors.New("the secret is empty")
	}
	key, err := standardKey(secret)
	if err != nil {
		return nil, err
	}
	s := new(Signer)
	s.plain.New = func() any { return &mac{Hash: hmac.New(sha256.New, []byte(secret))} }
	s.standard.New = func() any { return &mac{Hash: hmac.New(sha256.New, key)} }
	return s, nil
}

// AppendPlain appends the value of X-UserHero-Signature for a body.
func (s *Signer) AppendPlain(b, body []byte) []byte {
	h := s.plain.Get().(*mac)
	defer s.plain.Put(h)
	h.Reset()
	_, _ = h.Write(body) // hashes do not fail
	return hex.AppendEncode(append(b, plainPrefix...), h.Sum(h.sum[:0]))
}

// AppendStandard appends the value of webhook-signature for a body, with the
// values of webhook-id and webhook-timestamp (seconds since 1970).
func (s *Signer) AppendStandard(b []byte, id string, timestamp int64, body []byte) []byte {
	h := s.standard.Get().(*mac)
	defer s.standard.Put(h)
	h.Reset()
	head := append(append(h.head[:0], id...), '.')
	head = append(strconv.AppendInt(head, timestamp, 10), '.')
	_, _ = h.Write(head)
	_, _ = h.Write(body)
	return base64.StdEncoding.AppendEncode(append(b, standardPrefix...), h.Sum(h.sum[:0]))
}
