package signature

import (
	"errors"
	"net/http"
	"testing"
)

func TestVerifyTakesEitherSignature(t *testing.T) {
	t.Parallel()
	const body = `{"event":"feedback.created"}`
	signed := func(secret string) http.Header {
		s, err := NewSigner(secret)
		if err != nil {
			t.Fatal(err)
		}
		h := make(http.Header)
		h.Set("X-UserHero-Signature", s.signature([]byte(body)))
		h.Set("webhook-id", "dlv_1")
		h.Set("webhook-timestamp", "1767799800")
		h.Set("webhook-signature", s.standardSignature("dlv_1", 1767799800, []byte(body)))
		return h
	}
	const whsec = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	without := func(h http.Header, names ...string) http.Header {
		for _, name := range names {
			h.Del(name)
		}
		return h
	}
	rotating := signed("old")
	rotating.Set("webhook-signature", signed("old").Get("webhook-signature")+" "+signed("new").Get("webhook-signature"))
	for name, c := range map[string]struct {
		secret string
		header http.Header
		body   string
		want   error
	}{
		"both":                 {"s", signed("s"), body, nil},
		"both, whsec":          {whsec, signed(whsec), body, nil},
		"plain only":           {"s", without(signed("s"), "webhook-signature"), body, nil},
		"standard only":        {"s", without(signed("s"), "X-UserHero-Signature"), body, nil},
		"second of a rotation": {"new", rotating, body, nil},
		"another secret":       {"t", signed("s"), body, ErrWrong},
		"another body":         {"s", signed("s"), body + " ", ErrWrong},
		"no timestamp":         {"s", without(signed("s"), "X-UserHero-Signature", "webhook-timestamp"), body, ErrWrong},
		"no signature":         {"s", without(signed("s"), "X-UserHero-Signature", "webhook-signature"), body, ErrMissing},
	} {
		if err := Verify(c.secret, c.header, []byte(c.body)); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	for _, secret := range []string{"", "whsec_no base64"} {
		if err := Verify(secret, signed("s"), []byte(body)); err == nil || errors.Is(err, ErrWrong) {
			t.Errorf("secret %q: %v, want what is wrong with it", secret, err)
		}
	}
}
