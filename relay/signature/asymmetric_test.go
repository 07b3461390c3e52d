package signature

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestAsymmetricSignatureIsThatOfTheSpecification signs with the first key of RFC 8032,
// §7.1, and verifies as Standard Webhooks 1.0 says, with crypto/ed25519 alone: the
// libraries of Standard Webhooks verify only v1.
func TestAsymmetricSignatureIsThatOfTheSpecification(t *testing.T) {
	t.Parallel()
	seed := []byte("\x9d\x61\xb1\x9d\xef\xfd\x5a\x60\xba\x84\x4a\xf4\x92\xec\x2c\xc4\x44\x49\xc5\x69\x7b\x32\x69\x19\x70\x3b\xac\x03\x1c\xae\x7f\x60")
	const public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
	k, err := ParseKey("whsk_" + base64.StdEncoding.EncodeToString(seed))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%x", k.public()); got != public {
		t.Fatalf("the public key is %s, want %s", got, public)
	}
	body := []byte(`{"event":"feedback.created"}`)
	value := string(k.AppendStandard(nil, "msg_1", 1674087231, body))
	encoded, ok := strings.CutPrefix(value, "v1a,")
	sum, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || !ed25519.Verify(k.public(), []byte(`msg_1.1674087231.{"event":"feedback.created"}`), sum) {
		t.Errorf("%s is no signature over id.timestamp.body", value)
	}
	// RFC 8037, appendix A.3, has the thumbprint of this key.
	jwk := k.JWK()
	if jwk.KeyID != "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k" || jwk.X != "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" {
		t.Errorf("the JWK is %+v", jwk)
	}
	header := http.Header{"Webhook-Id": {"msg_1"}, "Webhook-Timestamp": {"1674087231"}, "Webhook-Signature": {"v1,abc v1a,AAAA " + value}}
	for _, key := range []string{k.Public(), jwk.X} {
		if err := VerifyPublic(key, header, body); err != nil {
			t.Errorf("verified with %s: %v", key, err)
		}
	}
	if err := VerifyPublic(NewKey().Public(), header, body); !errors.Is(err, ErrWrong) {
		t.Errorf("with another key: %v", err)
	}
	if err := VerifyPublic(k.Public(), header, append(body, ' ')); !errors.Is(err, ErrWrong) {
		t.Errorf("with another body: %v", err)
	}
	header.Set("webhook-id", "msg_2")
	if err := VerifyPublic(k.Public(), header, body); !errors.Is(err, ErrWrong) {
		t.Errorf("with another id: %v", err)
	}
	header.Set("webhook-signature", "v1,abc")
	if err := VerifyPublic(k.Public(), header, body); !errors.Is(err, ErrMissing) {
		t.Errorf("without a v1a signature: %v", err)
	}
	if err := VerifyPublic("whpk_x", header, body); err == nil || errors.Is(err, ErrMissing) {
		t.Errorf("with a key that is none: %v", err)
	}
}

func TestKeysAreReadInEachForm(t *testing.T) {
	t.Parallel()
	k := NewKey()
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		k.String(), " " + strings.TrimRight(k.String(), "=") + "\n", "whsk_" + base64.StdEncoding.EncodeToString(k.private.Seed()),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	} {
		if got, err := ParseKey(text); err != nil || got.Public() != k.Public() {
			t.Errorf("%.20s…: %v", text, err)
		}
	}
	mixed := append(k.private.Seed(), NewKey().public()...)
	for _, text := range []string{"", "secret", "whsk_", "whsk_AAAA", "whsec_" + base64.StdEncoding.EncodeToString(k.private.Seed()),
		"whsk_" + base64.StdEncoding.EncodeToString(mixed), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		if _, err := ParseKey(text); err == nil || text != "" && len(text) > 10 && strings.Contains(err.Error(), text) {
			t.Errorf("%q gives %v", text, err)
		}
	}
}
