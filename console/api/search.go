package api

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// NewSearch returns a function that reports whether an event's document contains a
// text, as people read both: JSON escapes are resolved, each run of white space is
// one space, and case is ignored in any script. The text may be a piece of JSON,
// such as "plan":"pro". It returns nil if every document matches. The function is
// not safe for concurrent use.
func NewSearch(text string) func(body []byte) bool {
	if strings.Contains(text, `":`) {
		text = string(unescaped([]byte(text))) // JSON, so it may have escapes
	}
	fold := cases.Fold()
	needle := readable(fold, text)
	if needle == "" {
		return nil
	}
	ascii := isASCII(needle)
	return func(body []byte) bool {
		if isASCII(body) {
			if !ascii {
				return false
			}
			if !bytes.ContainsRune(body, '\\') && !bytes.Contains(body, []byte("  ")) {
				return bytes.Contains(bytes.ToLower(body), []byte(needle)) // most documents are like this
			}
		}
		return strings.Contains(readable(fold, string(unescaped(body))), needle)
	}
}

// oneI replaces the Turkish letters İ and ı by i, after folding, so that istanbul
// finds İstanbul.
var oneI = strings.NewReplacer("i̇", "i", "ı", "i")

// readable returns a text in the form in which texts are compared.
func readable(fold cases.Caser, text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if isASCII(text) {
		return strings.ToLower(text)
	}
	return oneI.Replace(norm.NFC.String(fold.String(norm.NFC.String(text))))
}

func isASCII[T string | []byte](text T) bool {
	for i := range len(text) {
		if text[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
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
