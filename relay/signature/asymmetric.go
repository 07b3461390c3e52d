package signature

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// The prefixes of keys for asymmetric signatures in Standard Webhooks 1.0. The rest of a key
// is base64.
const (
	privatePrefix    = "whsk_"
	publicPrefix     = "whpk_"
	asymmetricPrefix = "v1a,"
)

// Key is an ed25519 key that makes asymmetric signatures of Standard Webhooks 1.0. Receivers
// verify them with the public key, which is not a secret. Key is safe for concurrent use.
type Key struct{ private ed25519.PrivateKey }

// NewKey makes a key.
func NewKey() *Key {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err) // the system's random numbers never fail
	}
	return &Key{private}
}

// ParseKey reads a private key: whsk_ and base64 of the 32 bytes of a seed or the 64 of a
// key pair, or PKCS #8 in PEM as `openssl genpkey -algorithm ed25519` writes it.
func ParseKey(text string) (*Key, error) {
	text = strings.TrimSpace(text)
	if block, _ := pem.Decode([]byte(text)); block != nil {
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if private, ok := parsed.(ed25519.PrivateKey); err == nil && ok {
			return &Key{private}, nil
		}
		return nil, errors.New("the PEM block is no ed25519 private key; openssl genpkey -algorithm ed25519 makes one")
	}
	encoded, ok := strings.CutPrefix(text, privatePrefix)
	if !ok {
		return nil, errors.New("a signing key is an ed25519 private key in PEM, or begins with whsk_")
	}
	switch raw := decodeKey(encoded); len(raw) {
	case ed25519.SeedSize:
		return &Key{ed25519.NewKeyFromSeed(raw)}, nil
	case ed25519.PrivateKeySize:
		if k := ed25519.NewKeyFromSeed(raw[:ed25519.SeedSize]); string(k) == string(raw) {
			return &Key{k}, nil
		}
		return nil, errors.New("the two halves of the key do not belong together")
	}
	return nil, errors.New("what follows whsk_ must be base64 of 32 or 64 bytes")
}

// decodeKey decodes base64 with or without padding. It returns nil if text is neither.
func decodeKey(text string) []byte {
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil {
		return nil
	}
	return raw
}

// String returns the private key as ParseKey reads it: whsk_ and base64.
func (k *Key) String() string {
	return privatePrefix + base64.StdEncoding.EncodeToString(k.private)
}

func (k *Key) public() ed25519.PublicKey { return k.private.Public().(ed25519.PublicKey) }

// Public returns the public key for receivers: whpk_ and base64.
func (k *Key) Public() string { return k.JWK().Public() }

// AppendStandard appends one signature of webhook-signature: v1a, and base64, over
// id.timestamp.body.
func (k *Key) AppendStandard(b []byte, id string, timestamp int64, body []byte) []byte {
	sum := ed25519.Sign(k.private, append(head(id, strconv.FormatInt(timestamp, 10)), body...))
	return base64.StdEncoding.AppendEncode(append(b, asymmetricPrefix...), sum)
}

// JWK is a public key as RFC 8037 writes it.
type JWK struct {
	KeyType   string `json:"kty"` // OKP
	Curve     string `json:"crv"` // Ed25519
	X         string `json:"x"`
	KeyID     string `json:"kid"` // the thumbprint of RFC 7638
	Use       string `json:"use"` // sig
	Algorithm string `json:"alg"` // EdDSA
}

// Public returns the key for receivers: whpk_ and base64.
func (k JWK) Public() string {
	return publicPrefix + base64.StdEncoding.EncodeToString(decodeKey(fromURL.Replace(k.X)))
}

// fromURL turns base64url into base64.
var fromURL = strings.NewReplacer("-", "+", "_", "/")

// JWK returns the public key.
func (k *Key) JWK() JWK {
	x := base64.RawURLEncoding.EncodeToString(k.public())
	thumbprint := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + x + `"}`))
	return JWK{"OKP", "Ed25519", x, base64.RawURLEncoding.EncodeToString(thumbprint[:]), "sig", "EdDSA"}
}

// VerifyPublic checks whether a request with these headers and this body was signed with
// the private key that belongs to a public key: whpk_ and base64, PEM as
// `openssl pkey -pubout` writes it, the x of a JWK, a JWK, or a set of them as the console
// publishes it. VerifyPublic returns nil if one of the v1a signatures in webhook-signature
// was made with a key of these. Otherwise it returns ErrMissing, ErrWrong, or an error about
// the key. Pass the request's body byte for byte.
//
// VerifyPublic does not check the time, just as Verify: handle each webhook-id once.
func VerifyPublic(public string, header http.Header, body []byte) error {
	keys, err := parsePublic(public)
	if err != nil {
		return err
	}
	signed := append(head(header.Get("webhook-id"), header.Get("webhook-timestamp")), body...)
	missing := true
	for _, one := range strings.Fields(header.Get(standardHeader)) {
		encoded, ok := strings.CutPrefix(one, asymmetricPrefix)
		if !ok {
			continue
		}
		missing = false
		sum := decodeKey(encoded)
		if slices.ContainsFunc(keys, func(key ed25519.PublicKey) bool { return ed25519.Verify(key, signed, sum) }) {
			return nil
		}
	}
	if missing {
		return ErrMissing
	}
	return ErrWrong
}

var errNoPublicKey = errors.New("the public key must be whpk_ and base64 of 32 bytes, an ed25519 key in PEM, or a JWK as in the console's .well-known/webhook-keys.json")

// parsePublic reads a public key in the forms of VerifyPublic. Only a set of JWKs has
// several; those of other kinds are left out.
func parsePublic(text string) ([]ed25519.PublicKey, error) {
	text = strings.TrimSpace(text)
	if block, _ := pem.Decode([]byte(text)); block != nil {
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		if key, ok := parsed.(ed25519.PublicKey); err == nil && ok {
			return []ed25519.PublicKey{key}, nil
		}
		return nil, errNoPublicKey
	}
	written := []JWK{{Curve: "Ed25519", X: strings.TrimPrefix(text, publicPrefix)}}
	if strings.HasPrefix(text, "{") {
		var given struct {
			JWK
			Keys []JWK `json:"keys"`
		}
		if json.Unmarshal([]byte(text), &given) != nil {
			return nil, errNoPublicKey
		}
		written = append(given.Keys, given.JWK)
	}
	var keys []ed25519.PublicKey
	for _, k := range written {
		key := decodeKey(fromURL.Replace(k.X))
		if k.Curve == "Ed25519" && len(key) == ed25519.PublicKeySize {
			keys = append(keys, key)
		}
	}
	if keys == nil {
		return nil, errNoPublicKey
	}
	return keys, nil
}
