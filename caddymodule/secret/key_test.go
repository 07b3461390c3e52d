package secret

import (
	"bytes"
	"strings"
	"testing"
)

func TestEncryptionKeyForms(t *testing.T) {
	t.Parallel()
	zeros := func(n int) []byte { return make([]byte, n) }
	for _, c := range []struct {
		name, text string
		want       []byte // nil: refused
	}{
		{"hexadecimal of 16", strings.Repeat("00", 16), zeros(16)},
		{"hexadecimal of 24", strings.Repeat("00", 24), zeros(24)},
		{"hexadecimal of 32", strings.Repeat("00", 32), zeros(32)},
		{"base64 of 16", "AAAAAAAAAAAAAAAAAAAAAA==", zeros(16)},
		{"base64 of 32", strings.Repeat("A", 43) + "=", zeros(32)},
		{"base64 of 32 without padding", strings.Repeat("A", 43), zeros(32)},
		{"base64 for URLs", strings.Repeat("_", 42) + "8", bytes.Repeat([]byte{0xff}, 32)},
		{"16 characters", "correct horse ba", []byte("correct horse ba")},
		{"32 characters", strings.Repeat("key!", 8), []byte(strings.Repeat("key!", 8))},
		{"too short", "secret", nil},
		{"too long", strings.Repeat("x!", 30), nil},
		{"empty", "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := decodeKey(c.text)
			if (err != nil) != (c.want == nil) || !bytes.Equal(got, c.want) {
				t.Errorf("got %x %v, want %x", got, err, c.want)
			}
			if err != nil && c.text != "" && strings.Contains(err.Error(), c.text) {
				t.Errorf("the error tells the key: %v", err)
			}
		})
	}
}
