package redact

import (
	"errors"
	"net/url"
	"strings"
	"unicode"
)

// maxErrorText bounds what is kept of an error: a receiver can write its own
// text into some, such as the names of its certificate.
const maxErrorText = 1 << 10

// WithoutURL returns the error without the URL that net/http puts before it.
func WithoutURL(err error) error {
	var u *url.Error
	for errors.As(err, &u) {
		err = u.Err
	}
	return err
}

// Error returns an error's text without the URL that net/http puts before it, as
// one line of at most 1 KiB that steers no terminal.
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
