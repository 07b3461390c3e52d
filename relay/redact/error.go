package redact

import (
	"errors"
	"net/url"
	"strings"
	"unicode"
)

// maxErrorText bounds the length of a stored error. A receiver can put its own text
// into some errors, for example as the names in its certificate.
const maxErrorText = 1 << 10

// WithoutURL returns the error without the URL that net/http puts before it.
func WithoutURL(err error) error {
	var u *url.Error
	for errors.As(err, &u) {
		err = u.Err
	}
	return err
}

// Error returns an error's text as one line of at most 1 KiB, without control
// characters and without the URL that net/http puts first.
func Error(err error) string {
	text := strings.Map(func(r rune) rune {
		if r == '\n' || r == '\r' || r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, WithoutURL(err).Error())
	if len(text) <= maxErrorText {
		return text
	}
	const cut = "…"
	return strings.ToValidUTF8(text[:maxErrorText-len(cut)], "") + cut
}
