package api

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// NewSearch returns a function that reports whether an event's document contains a
// text, as people read both: in its message, its metadata or another value that is
// shown, without regard to case, accents and the kind of white space. It does not find
// names of members or what a browser says about itself. A text that is a piece of JSON,
// such as "plan":"pro" or "pro", is found anywhere in the document. NewSearch returns nil if
// every document matches. The function is not safe for concurrent use.
func NewSearch(text string) func(body []byte) bool {
	text = strings.TrimSpace(text)
	piece := strings.Contains(text, `":`) || len(text) > 2 && text[0] == '"' && text[len(text)-1] == '"'
	if piece {
		text = string(unescaped([]byte(text))) // JSON, so it may have escapes
	}
	needle := bytes.Clone(bytes.TrimSpace(appendFolded(nil, []byte(text))))
	if len(needle) == 0 {
		return nil
	}
	var folded []byte // kept for its memory
	return func(body []byte) bool {
		if piece {
			folded = appendFolded(folded[:0], unescaped(body))
		} else {
			folded = appendShown(folded[:0], body)
		}
		return bytes.Contains(folded, needle)
	}
}

// notShown are the members of data whose values are not searched. Of the context, only
// the page is.
var notShown = []string{"createdAt", "screenshotUrl", "widgetId"}

// appendShown appends the values of a document that people see, folded, each after a
// zero byte.
func appendShown(dst, body []byte) []byte {
	depth, context, key := 0, 0, []byte(nil)
	for i := 0; i < len(body); {
		switch c := body[i]; c {
		case '{', '[':
			if depth++; depth == 3 && string(key) == "context" {
				context = depth
			}
			i++
		case '}', ']':
			if depth == context {
				context = 0
			}
			depth--
			i++
		case ',', ':', ' ':
			i++
		default:
			end := valueEnd(body, i)
			value := body[i:end]
			if i = end; end < len(body) && body[end] == ':' {
				key = unquoted(value)
				continue
			}
			switch {
			case depth < 2, context > 0 && string(key) != "pageUrl", depth == 2 && slices.Contains(notShown, string(key)):
			default:
				dst = append(dst, 0)
				dst = appendFolded(dst, unescaped(unquoted(value)))
			}
		}
	}
	return dst
}

// valueEnd returns the end of the string, number or literal at body[i].
func valueEnd(body []byte, i int) int {
	if body[i] != '"' {
		if n := bytes.IndexAny(body[i:], ",:}] "); n > 0 {
			return i + n
		}
		return len(body)
	}
	for i++; ; i++ {
		n := bytes.IndexByte(body[i:], '"')
		if n < 0 {
			return len(body)
		}
		i += n
		escapes := 0
		for body[i-1-escapes] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return i + 1
		}
	}
}

func unquoted(value []byte) []byte {
	value, _ = bytes.CutPrefix(value, []byte{'"'})
	value, _ = bytes.CutSuffix(value, []byte{'"'})
	return value
}

// foldedBelow is where the table of folded characters ends. Below are the scripts that
// write accents; above, only case is folded.
const foldedBelow = 0x2100

// foldTable holds each character below foldedBelow as it is compared: decomposed,
// without accents, folded. İ and ı are i, so that istanbul finds İstanbul.
var foldTable = sync.OnceValue(func() *[foldedBelow]string {
	var table [foldedBelow]string
	fold := cases.Fold()
	for r := range rune(foldedBelow) {
		if unicode.IsSpace(r) {
			table[r] = " "
			continue
		}
		plain := strings.Map(func(c rune) rune {
			if isAccent(c) {
				return -1
			}
			return c
		}, norm.NFD.String(string(r)))
		table[r] = strings.ReplaceAll(norm.NFC.String(fold.String(plain)), "ı", "i")
	}
	return &table
})

// isAccent reports whether a character is an accent that follows a letter.
func isAccent(r rune) bool { return r >= 0x300 && r <= 0x36f }

// composes reports whether a character may be one with the character before it, in a
// script whose parts are no accents: a vowel or final of Hangul, a sound mark of Kana.
func composes(r rune) bool { return r >= 0x1160 && r <= 0x11ff || r == 0x3099 || r == 0x309a }

// appendFolded appends a text in the form in which texts are compared: without case
// and accents, each run of white space as one space.
func appendFolded(dst, text []byte) []byte {
	table := foldTable()
	start, compose := len(dst), false
	dst = slices.Grow(dst, len(text))
	for i := 0; i < len(text); {
		c := text[i]
		if c < utf8.RuneSelf {
			i++
			switch {
			case c == ' ' || c >= '\t' && c <= '\r':
				dst = appendSpace(dst, start)
			case c >= 'A' && c <= 'Z':
				dst = append(dst, c+'a'-'A')
			default:
				dst = append(dst, c)
			}
			continue
		}
		r, size := utf8.DecodeRune(text[i:])
		i += size
		switch {
		case isAccent(r):
		case r < foldedBelow && table[r] == " ", r >= foldedBelow && unicode.IsSpace(r):
			dst = appendSpace(dst, start)
		case r < foldedBelow:
			dst = append(dst, table[r]...)
			compose = compose || composes(r)
		default:
			dst = utf8.AppendRune(dst, unicode.ToLower(r))
			compose = compose || composes(r)
		}
	}
	if compose {
		dst = append(dst[:start], norm.NFC.Bytes(dst[start:])...)
	}
	return dst
}

// appendSpace appends a space, unless one ends the text that begins at start.
func appendSpace(dst []byte, start int) []byte {
	if len(dst) > start && dst[len(dst)-1] == ' ' {
		return dst
	}
	return append(dst, ' ')
}

// unescaped resolves the escapes of JSON strings (RFC 8259 §7).
func unescaped(text []byte) []byte {
	if !bytes.ContainsRune(text, '\\') {
		return text
	}
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' || i+1 == len(text) {
			out = append(out, text[i])
			continue
		}
		i++
		switch c := text[i]; c {
		case 'b', 'f', 'n', 'r', 't':
			out = append(out, ' ')
		case 'u':
			r, ok := hexRune(text[i+1:])
			if !ok {
				out = append(out, '\\', 'u')
				continue
			}
			i += 4
			if low, ok := lowSurrogate(text[i+1:]); ok && utf16.IsSurrogate(r) {
				if whole := utf16.DecodeRune(r, low); whole != utf8.RuneError {
					r, i = whole, i+6
				}
			}
			out = utf8.AppendRune(out, r) // a lone surrogate is U+FFFD
		default: // a quotation mark, a backslash or a slash
			out = append(out, c)
		}
	}
	return out
}

func hexRune(text []byte) (rune, bool) {
	if len(text) < 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(text[:4]), 16, 32)
	return rune(n), err == nil
}

func lowSurrogate(text []byte) (rune, bool) {
	if !bytes.HasPrefix(text, []byte(`\u`)) {
		return 0, false
	}
	return hexRune(text[2:])
}
