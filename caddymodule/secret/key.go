package secret

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// Key replaces the placeholders in text and decodes the encryption key: 16, 24 or 32
// bytes, as plain text, in hexadecimal or in base64. It returns nil for an empty text.
// The error does not contain the key.
func Key(repl *caddy.Replacer, text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	text, err := Resolve(repl, text)
	if err != nil {
		return nil, err
	}
	return decodeKey(text)
}

// decodeKey decodes 16, 24 or 32 bytes that are written in hexadecimal, in base64 or as
// plain text. If a text can be read in two ways, the encoding with fewer characters
// wins: 32 hexadecimal digits are 16 bytes, and 24 base64 characters that end in == are
// 16 bytes. Any other 16, 24 or 32 characters are the key itself.
func decodeKey(text string) ([]byte, error) {
	fits := func(n int) bool { return n == 16 || n == 24 || n == 32 }
	if key, err := hex.DecodeString(text); err == nil && fits(len(key)) {
		return key, nil
	}
	if key, err := base64.StdEncoding.DecodeString(text); err == nil && fits(len(key)) && strings.HasSuffix(text, "=") {
		return key, nil
	}
	if fits(len(text)) {
		return []byte(text), nil
	}
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		if key, err := encoding.DecodeString(text); err == nil && fits(len(key)) {
			return key, nil
		}
	}
	return nil, errors.New("must be 16, 24 or 32 bytes, as they are, in hexadecimal or in base64; make one with: openssl rand -hex 32")
}
