package event

import (
	"encoding/binary"
	"math/bits"
)

// plain returns how many bytes at the beginning of s need no escape in a JSON string: those
// before the first quote, backslash or control character. It looks at eight bytes at once:
// subtracting 1 from a byte sets its highest bit if the byte was 0 and, of the bytes below
// 0x80, in no other case.
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

// verbatim reports whether a string needs no escape.
func verbatim(s []byte) bool { return plain(s) == len(s) }

// appendString appends a string as ECMAScript's QuoteJSONString does (ECMA-262 §25.5.2.3):
// only quotes, backslashes and control characters are escaped.
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
