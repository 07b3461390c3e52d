package jetstreamqueue

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"
)

// longToken is how long a name may be to stand in a subject as it is written.
const longToken = 200

// token is a name as one token of a subject: letters, digits, '-' and '_' as they are,
// other bytes as '=' and two hexadecimal digits; '%' stands for the empty name, and
// '%' with a hash for one that is too long. Two names never have the same token.
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

// hashed is the SHA-256 of a name as one token of a subject.
func hashed(name string) string {
	sum := sha256.Sum256([]byte(name))
	return base32Lower.EncodeToString(sum[:])
}
