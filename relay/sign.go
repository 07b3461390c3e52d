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

func (s *signer) signature(body []byte) string {
	h := s.plain.Get().(*mac)
	defer s.plain.Put(h)
	h.Reset()
	_, _ = h.Write(body) // hashes do not fail
	out := make([]byte, 0, 7+2*sha256.Size)
	return string(hex.AppendEncode(append(out, "sha256="...), h.Sum(h.sum[:0])))
}

func (s *signer) standardSignature(id string, timestamp int64, body []byte) string {
	h := s.standard.Get().(*mac)
	defer s.standard.Put(h)
	h.Reset()
	head := append(append(h.head[:0], id...), '.')
	head = append(strconv.AppendInt(head, timestamp, 10), '.')
	_, _ = h.Write(head)
	_, _ = h.Write(body)
	out := make([]byte, 0, 3+base64.StdEncoding.EncodedLen(sha256.Size))
	return string(base64.StdEncoding.AppendEncode(append(out, "v1,"...), h.Sum(h.sum[:0])))
}
