package signature

import "testing"

// The vector is that of the Standard Webhooks specification's reference
// libraries.
func TestSignaturesAreStandard(t *testing.T) {
	t.Parallel()
	s, err := NewSigner("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := s.standardSignature("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, []byte(`{"test": 2432232314}`)),
		"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("webhook-signature is %s, want %s", got, want)
	}
	// RFC 4231, test case 2.
	s, err = NewSigner("Jefe")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second from a used hash
		if got, want := s.signature([]byte("what do ya want for nothing?")),
			"sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"; got != want {
			t.Errorf("X-UserHero-Signature is %s, want %s", got, want)
		}
	}
	if _, err := NewSigner("whsec_no base64"); err == nil {
		t.Error("a secret that promises base64 and has none is taken")
	}
}

func (s *Signer) signature(body []byte) string { return string(s.AppendPlain(nil, body)) }

func (s *Signer) standardSignature(id string, timestamp int64, body []byte) string {
	return string(s.AppendStandard(nil, id, timestamp, body))
}
