package signature

import (
	"cmp"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/userhero/relay/event"
)

func TestExplainsWrongSignatures(t *testing.T) {
	t.Parallel()
	const (
		secret = "s3cr3t"
		whsec  = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
		id     = "dlv_0000"
		at     = 1767799800
		stamp  = "1767799800"
		body   = `{"event":"feedback.created","data":{"message":"a <b> é"}}`
	)
	sign := func(secret string) *Signer {
		s, err := NewSigner(secret)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	plain := sign(secret).signature([]byte(body))
	standard := sign(whsec).standardSignature(id, at, []byte(body))
	mac, std := strings.TrimPrefix(plain, plainPrefix), strings.TrimPrefix(standard, standardPrefix)
	plainB64 := strings.TrimPrefix(sign(secret).standardSignature(id, at, []byte(body)), standardPrefix)

	for _, c := range []struct {
		name    string
		request Request
		reasons []string // what each reason holds; none is valid
		open    bool     // not explained by these alone
	}{
		{"as sent", Request{secret, "", plain, "", "", []byte(body)}, nil, false},
		{"as sent, with id", Request{secret, "", plain, id, stamp, []byte(body)}, nil, false},
		{"copied with the header's name", Request{secret, "", "X-UserHero-Signature: " + plain + "\n", "", "", []byte(body)}, nil, false},
		{"of Standard Webhooks", Request{whsec, "", standard, id, stamp, []byte(body)}, nil, false},
		{"with a plain secret", Request{secret, "", "v1," + plainB64, id, stamp, []byte(body)}, nil, false},
		{"second of several", Request{whsec, "", "v1a,eA== v1," + plainB64 + " " + standard, id, stamp, []byte(body)}, nil, false},
		{"whsec over the body", Request{whsec, "", sign(whsec).signature([]byte(body)), "", "", []byte(body)}, nil, false},

		{"newline added", Request{secret, "", plain, "", "", []byte(body + "\n")}, []string{"newline that was not sent"}, false},
		{"newline taken", Request{secret, "", sign(secret).signature([]byte(body + "\n")), "", "", []byte(body)}, []string{"missing here"}, false},
		{"byte order mark", Request{secret, "", plain, "", "", []byte("\xEF\xBB\xBF" + body)}, []string{"byte order mark"}, false},
		{"CR LF", Request{secret, "", sign(secret).signature([]byte("a\nb")), "", "", []byte("a\r\nb")}, []string{"CR LF"}, false},
		{"spaces and escapes", Request{secret, "", plain, "", "", []byte(`{ "event": "feedback.created", "data": {"message": "a \u003cb\u003e \u00e9"} }`)}, []string{"parsed and written again"}, false},
		{"the same, standard", Request{whsec, "", standard, id, stamp, []byte(strings.ReplaceAll(body, ",", ", "))}, []string{"parsed and written again"}, false},

		{"no prefix", Request{secret, "", mac, "", "", []byte(body)}, []string{"begin with sha256="}, false},
		{"upper-case prefix", Request{secret, "", "SHA256=" + mac, "", "", []byte(body)}, []string{"begin with sha256="}, false},
		{"upper-case hex", Request{secret, "", plainPrefix + strings.ToUpper(mac), "", "", []byte(body)}, []string{"upper-case hex"}, false},
		{"upper-case hex and a newline", Request{secret, "", plainPrefix + strings.ToUpper(mac), "", "", []byte(body + "\n")}, []string{"upper-case hex", "newline"}, false},
		{"no version", Request{whsec, "", std, id, stamp, []byte(body)}, []string{"begin with v1,"}, false},
		{"the version of the other header", Request{whsec, "", plainPrefix + std, id, stamp, []byte(body)}, []string{"begin with v1,"}, false},

		{"secret with a newline", Request{secret + "\n", "", plain, "", "", []byte(body)}, []string{"white space around"}, false},
		{"quoted secret", Request{`"` + secret + `"`, "", plain, "", "", []byte(body)}, []string{"quotation marks"}, false},
		{"configured with a newline", Request{secret, "", sign(secret + "\n").signature([]byte(body)), "", "", []byte(body)}, []string{"configure it without"}, false},
		{"secret without its beginning", Request{strings.TrimPrefix(whsec, secretPrefix), "", standard, id, stamp, []byte(body)}, []string{"lacks its beginning"}, false},
		{"milliseconds", Request{whsec, "", standard, id, stamp + "123", []byte(body)}, []string{"not in milliseconds"}, false},

		{"another secret", Request{"other", "", plain, "", "", []byte(body)}, []string{"likely another one", "If the secret is right"}, true},
		{"another secret and spaces", Request{"other", "", plain, "", "", []byte(`{"a": 1}`)}, []string{"written again", "Compare the secret"}, true},
		{"a body cut off", Request{secret, "", plain, "", "", []byte(body[:20])}, []string{"cut off", "Compare the secret"}, true},
		{"no body", Request{secret, "", plain, "", "", nil}, []string{"body is empty"}, true},
		{"no secret", Request{"", "", plain, "", "", []byte(body)}, []string{"secret is empty"}, true},
		{"no signature", Request{secret, "", " ", "", "", []byte(body)}, []string{"signature is empty"}, true},
		{"no id", Request{whsec, "", standard, "", stamp, []byte(body)}, []string{"webhook-id and webhook-timestamp"}, true},
		{"half a signature", Request{secret, "", plain[:40], "", "", []byte(body)}, []string{"cut off"}, true},
		{"SHA-1", Request{secret, "", "sha1=x", "", "", []byte(body)}, []string{"no HMAC-SHA256"}, true},
		{"as long as SHA-1", Request{secret, "", mac[:40], "", "", []byte(body)}, []string{"SHA-1"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			expectVerdict(t, Explain(c.request, event.Canonical), c.reasons, c.open)
		})
	}
}

// TestExplainsWrongAsymmetricSignatures: the same mistakes are found with a public key, in
// each form in which people have it.
func TestExplainsWrongAsymmetricSignatures(t *testing.T) {
	t.Parallel()
	const (
		id    = "dlv_0000"
		stamp = "1767799800"
		body  = `{"event":"feedback.created","data":{"message":"a <b> é"}}`
	)
	key, other := NewKey(), NewKey()
	sign := func(k *Key, body string) string { return string(k.AppendStandard(nil, id, 1767799800, []byte(body))) }
	signed := sign(key, body)
	raw := decodeKey(strings.TrimPrefix(signed, asymmetricPrefix))
	der, err := x509.MarshalPKIXPublicKey(key.public())
	if err != nil {
		t.Fatal(err)
	}
	inPEM := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	jwk, err := json.Marshal(key.JWK())
	if err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(map[string]any{"keys": []any{other.JWK(), map[string]string{"kty": "RSA", "n": "x"}, key.JWK()}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		request Request
		reasons []string // what each reason holds; none is valid
		open    bool     // not explained by these alone
	}{
		{"whpk_", Request{PublicKey: key.Public(), Signature: signed}, nil, false},
		{"the x of a JWK", Request{PublicKey: key.JWK().X, Signature: signed}, nil, false},
		{"a JWK", Request{PublicKey: string(jwk), Signature: signed}, nil, false},
		{"the published set", Request{PublicKey: string(set), Signature: signed}, nil, false},
		{"PEM", Request{PublicKey: inPEM, Signature: signed}, nil, false},
		{"beside others, in the header", Request{PublicKey: key.Public(), Signature: "webhook-signature: v1,eA== " + sign(other, body) + " " + signed}, nil, false},

		{"the private key", Request{PublicKey: key.String(), Signature: signed}, []string{"This is the private key. A receiver needs only the public one, " + key.Public()}, false},
		{"newline added", Request{PublicKey: key.Public(), Signature: signed, Body: []byte(body + "\n")}, []string{"newline that was not sent"}, false},
		{"written again", Request{PublicKey: key.Public(), Signature: signed, Body: []byte(strings.ReplaceAll(body, ",", ", "))}, []string{"parsed and written again"}, false},
		{"milliseconds", Request{PublicKey: key.Public(), Signature: signed, Timestamp: stamp + "000"}, []string{"not in milliseconds"}, false},
		{"over the body alone", Request{PublicKey: key.Public(), Signature: "v1a," + base64.StdEncoding.EncodeToString(ed25519.Sign(key.private, []byte(body)))}, []string{"covers the body alone"}, false},
		{"in hex, and a newline", Request{PublicKey: key.Public(), Signature: "v1a," + hex.EncodeToString(raw), Body: []byte(body + "\n")}, []string{"in hex", "newline"}, false},
		{"no version", Request{PublicKey: key.Public(), Signature: strings.TrimPrefix(signed, asymmetricPrefix)}, []string{"begin with v1a,"}, false},

		{"another key", Request{PublicKey: other.Public(), Signature: signed}, []string{"the public key is likely another one", "If the public key is right"}, true},
		{"a secret for a key", Request{PublicKey: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", Signature: signed}, []string{"The public key must be whpk_"}, true},
		{"a key for a secret", Request{Secret: "s3cr3t", Signature: signed}, []string{"verified with the webhook's public key"}, true},
		{"no asymmetric signature", Request{PublicKey: key.Public(), Signature: "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="}, []string{"the webhook has no signing key"}, true},
		{"no timestamp", Request{PublicKey: key.Public(), Signature: signed, Timestamp: "-"}, []string{"webhook-id and webhook-timestamp"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := c.request
			r.ID, r.Timestamp = id, cmp.Or(r.Timestamp, stamp)
			if r.Timestamp == "-" {
				r.Timestamp = ""
			}
			if r.Body == nil {
				r.Body = []byte(body)
			}
			expectVerdict(t, Explain(r, event.Canonical), c.reasons, c.open)
		})
	}
}

// expectVerdict fails the test unless a verdict has these reasons; without one it is valid.
func expectVerdict(t *testing.T, v Verdict, reasons []string, open bool) {
	t.Helper()
	if v.Valid != (len(reasons) == 0) || v.Explained == open || len(v.Reasons) != len(reasons) {
		t.Fatalf("%+v", v)
	}
	for i, want := range reasons {
		if !strings.Contains(v.Reasons[i], want) {
			t.Errorf("reason %q, want %q", v.Reasons[i], want)
		}
	}
}
