package event

import (
	"encoding/binary"
	"math/bits"
)

// plain is how many bytes at the beginning of s a JSON string holds as they are:
// all up to the first quote, backslash or control character. Eight are looked at
// at once: of a byte, take 1 away and a borrow reaches its highest bit where it
// was 0 and, of those below 0x80, nowhere else.
func plain(s []byte) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	i := 0
	for ; i+8 <= len(s); i += 8 {
		word := binary.LittleEndian.Uint64(s[i:])
		quotes, escapes := word^ones*'"', word^ones*'\\'
		if found := ((word - ones*0x20) | (quotes - ones) | (escapes - ones)) &^ word & highs; found != 0 {
			return i + bits.TrailingZeros64(found)/8
		}
	}
	for ; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' {
			break
		}
	}
	return i
}

// verbatim tells whether a string needs no escape.
func verbatim(s []byte) bool { return plain(s) == len(s) }

// appendString appends a string as ECMAScript's QuoteJSONString does (ECMA-262
// §25.5.2.3): raw but for the quote, the backslash and control characters.
func appendString(dst, s []byte, verbatim bool) []byte {
	dst = append(dst, '"')
	if verbatim {
		dst = append(dst, s...)
		return append(dst, '"')
	}
	const hex = "0123456789abcdef"
	for {
		n := plain(s)
		dst = append(dst, s[:n]...)
		if n == len(s) {
			return append(dst, '"')
		}
		switch c := s[n]; c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\t':
			dst = append(dst, '\\', 't')
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\f':
			dst = append(dst, '\\', 'f')
		case '\r':
			dst = append(dst, '\\', 'r')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		s = s[n+1:]
	}
}

// append appends a value in its canonical form.
func (t *tree) append(dst []byte, r ref) []byte {
	n := t.at(r)
	switch n.kind {
	case null:
		return append(dst, "null"...)
	case boolean, number:
		return append(dst, n.value...)
	case text:
		return appendString(dst, n.value, n.verbatim)
	case array:
		dst = append(dst, '[')
		for c := n.first; c != none; c = t.at(c).next {
			if c != n.first {
				dst = append(dst, ',')
			}
			dst = t.append(dst, c)
		}
		return append(dst, ']')
	}
	dst = append(dst, '{')
	for c := n.first; c != none; c = t.at(c).next {
		if c != n.first {
			dst = append(dst, ',')
		}
		m := t.at(c)
		dst = appendString(dst, m.name, m.nameVerbatim)
		dst = append(dst, ':')
		dst = t.append(dst, c)
	}
	return append(dst, '}')
}

// Canonical rewrites a JSON text into the bytes that V8 gives for
// JSON.stringify(JSON.parse(text)). What would not keep its value is refused
// with a *Problem.
func Canonical(in []byte) ([]byte, error) {
	var t tree
	if err := t.parse(in, maxStoredDepth); err != nil {
		return nil, err
	}
	return t.append(make([]byte, 0, len(in)), t.root), nil
}
