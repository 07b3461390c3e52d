package body

import (
	"iter"
	"strings"
	"unicode"
	"unicode/utf16"
)

// maxClean bounds a clean text, in bytes: 4,000 characters have at most 12,000.
const maxClean = 16 << 10

// clean removes what does not belong into a message: control characters, and the
// characters that turn the direction of the text around them. If lines is false, white
// space becomes single spaces. Otherwise lines stay, and at most two ends of line stand
// together. The result is empty if nothing visible is left. It has little more than
// maxClean bytes, which is more than any message holds.
func clean(text string, lines bool) string {
	var b strings.Builder
	visible, space, ends := false, false, 0
	for _, r := range strings.ReplaceAll(text, "\r\n", "\n") {
		if b.Len() > maxClean {
			break
		}
		switch {
		case r == '\n', r == '\r', r == '\u2028', r == '\u2029', r == '\u0085', r == '\v', r == '\f':
			ends++
			continue
		case unicode.IsSpace(r):
			space = true
			continue
		case unicode.IsControl(r), r >= '\u202a' && r <= '\u202e', r >= '\u2066' && r <= '\u2069', r == '\ufeff':
			continue
		}
		if b.Len() > 0 {
			switch {
			case ends > 0 && lines:
				b.WriteString(strings.Repeat("\n", min(ends, 2)))
			case ends > 0, space:
				b.WriteByte(' ')
			}
		}
		space, ends = false, 0
		visible = visible || !unicode.In(r, unicode.Cf, unicode.M, unicode.Zs) && r != '\u2800' && r != '\u3164'
		b.WriteRune(r)
	}
	if !visible {
		return ""
	}
	return b.String()
}

// maxCluster bounds the runes that belong to one character as people see it. Writing
// systems and emoji need fewer.
const maxCluster = 16

// clusters yields the parts of a text such that a cut between two of them separates no
// mark from its letter and no emoji from what changes it.
func clusters(text string) iter.Seq[string] {
	return func(yield func(string) bool) {
		start, n, joined := 0, 0, false
		for i, r := range text {
			extends := joined || r > 0x7f && (unicode.In(r, unicode.M) || r == '\u200d' || r >= 0x1f3fb && r <= 0x1f3ff)
			if i > start && (!extends || n == maxCluster) {
				if !yield(text[start:i]) {
					return
				}
				start, n = i, 0
			}
			n++
			joined = r == '\u200d'
		}
		if start < len(text) {
			yield(text[start:])
		}
	}
}

// escaped yields the clusters of a text, each escaped.
func escaped(text string, escape func(string) string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for part := range clusters(text) {
			if !yield(escape(part)) {
				return
			}
		}
	}
}

// clip joins parts as long as the result has at most max units, and ends it with an
// ellipsis if it leaves something out.
func clip(parts iter.Seq[string], max int) string {
	const more = "…"
	var b strings.Builder
	size, fits := 0, 0 // fits is how many bytes leave room for the ellipsis
	for part := range parts {
		if size += units(part); size > max {
			return strings.TrimRight(b.String()[:fits], " \n") + more
		}
		b.WriteString(part)
		if size < max {
			fits = b.Len()
		}
	}
	return b.String()
}

// units returns the length of a text in UTF-16, in which JavaScript counts. It is never
// less than the number of code points, so that a limit of characters is kept however a
// service counts them.
func units(text string) int {
	n := 0
	for _, r := range text {
		n += max(utf16.RuneLen(r), 1)
	}
	return n
}
