package seal

import (
	"bytes"
	"strings"
	"testing"
)

// TestSettingsAreSealedForTheirWebhook: what is encrypted for one webhook cannot be
// read as another's, nor with another key.
func TestSettingsAreSealedForTheirWebhook(t *testing.T) {
	t.Parallel()
	with := func(key string) Sealer {
		s, err := New([]byte(key))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s, data := with(strings.Repeat("k", 32)), []byte(`{"secret":"whsec_x"}`)
	sealed, encrypted := s.Seal("1", data)
	if !encrypted || bytes.Contains(sealed, []byte("whsec")) {
		t.Fatalf("%q is not encrypted", sealed)
	}
	if got, err := s.Open("1", sealed); err != nil || !bytes.Equal(got, data) {
		t.Errorf("it opens as %q, error %v", got, err)
	}
	if _, err := s.Open("2", sealed); err == nil {
		t.Error("it opens as another webhook's")
	}
	if _, err := with(strings.Repeat("x", 32)).Open("1", sealed); err == nil || !strings.Contains(err.Error(), "another encryption_key") {
		t.Errorf("with another key: %v", err)
	}
	if _, err := with("").Open("1", sealed); err == nil || !strings.Contains(err.Error(), "there is no encryption_key") {
		t.Errorf("without a key: %v", err)
	}
	if _, err := s.Open("1", sealed[:5]); err == nil {
		t.Error("a stump opens")
	}
	if _, err := New([]byte("short")); err == nil {
		t.Error("a key of 5 bytes is taken")
	}
	if got, encrypted := with("").Seal("1", data); encrypted || !bytes.Equal(got, data) {
		t.Errorf("without a key it is stored as %q", got)
	}
}
