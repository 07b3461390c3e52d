package notify

import (
	"fmt"
	"net/mail"
	"strings"
)

// ParseAddress parses one e-mail address of RFC 5322. It rejects line breaks, although
// folded headers may have them: a configuration does not need them.
func ParseAddress(raw string) (*mail.Address, error) {
	parsed, err := mail.ParseAddress(raw)
	switch {
	case strings.ContainsAny(raw, "\r\n\x00"):
		return nil, fmt.Errorf("%q has a line break in it", raw)
	case err != nil:
		return nil, fmt.Errorf("%q is no e-mail address: %s", raw, strings.TrimPrefix(err.Error(), "mail: "))
	case strings.ContainsFunc(parsed.Address, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return nil, fmt.Errorf("the address in %q has blanks in it", raw)
	}
	return parsed, nil
}
