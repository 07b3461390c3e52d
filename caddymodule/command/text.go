package command

import (
	"strings"
	"time"
	"unicode"
)

// cell makes a text safe to print in a table or a message: control characters,
// which could steer the terminal, and line breaks are replaced.
func cell(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

// timestamp formats a time as --since reads it; the zero time is empty.
func timestamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
