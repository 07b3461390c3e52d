package jetstreamqueue

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"
)

// longToken is the length of the longest name that a subject holds in full.
const longToken = 200

// token returns a name as one token of a subject. Letters, digits, '-' and '_' stay as they
// are; any other byte becomes '=' and two hexadecimal digits. The empty name becomes '%',
// and a name that is too long becomes '%' and a hash. Two names never have the same token.
func token(name string) string {
	if name == "" {
		return "%"
	}
	if len(name) > longToken {
		return "%" + hashed(name)
	}
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
			b.WriteByte(c)
		default:
			b.Write([]byte{'=', digits[c>>4], digits[c&15]})
		}
	}
	return b.String()
}

var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// hashed returns the SHA-256 of a name as one token of a subject.
func hashed(name string) string {
	sum := sha256.Sum256([]byte(name))
	return base32Lower.EncodeToString(sum[:])
}
