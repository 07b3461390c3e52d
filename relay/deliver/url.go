package deliver

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"unicode"

	"golang.org/x/net/idna"
)

var errNoURL = errors.New("give an absolute http or https URL")

// parseURL returns a webhook's URL in the form that is sent. Its host is in ASCII.
// Characters that RFC 3986 forbids in the path and the query are percent-encoded; what
// is already encoded does not change. The error is errNoURL, or the reason why the host
// is refused; in that case parseURL also returns the URL.
func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(encodeURL(s))
	if err != nil || u.Host == "" {
		return nil, errNoURL
	}
	host, err := asciiHost(u)
	if err == nil {
		u.Host = host
	}
	return u, err
}

// encodeURL encodes the characters after the host that must not appear raw.
func encodeURL(s string) string {
	_, rest, ok := strings.Cut(s, "://")
	if !ok {
		return s
	}
	i := strings.IndexAny(rest, "/?#")
	if i < 0 {
		return s
	}
	behind := rest[i:]
	b := []byte(s[:len(s)-len(behind)])
	for i := range len(behind) {
		c := behind[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~!$&'()*+,;=:@/?#", c) >= 0,
			c == '%' && i+2 < len(behind) && isHex(behind[i+1]) && isHex(behind[i+2]),
			c < ' ', c == 0x7f: // url.Parse refuses control characters
			b = append(b, c)
		default:
			const digits = "0123456789ABCDEF"
			b = append(b, '%', digits[c>>4], digits[c&15])
		}
	}
	return string(b)
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// asciiHost returns a URL's host in ASCII, as it is looked up and sent (UTS 46). It
// returns an error for hosts that programs read as different addresses: 2130706433,
// 0x7f.1, 0177.0.0.1 and 127.1 mean 127.0.0.1 to many, and ①②⑦.0.0.1 is converted to
// it. No host name ends with a label that is a number (RFC 1123 §2.1; WHATWG URL, "ends
// in a number").
func asciiHost(u *url.URL) (string, error) {
	host, ascii := u.Hostname(), u.Hostname()
	if _, err := netip.ParseAddr(host); err == nil {
		return strings.TrimSuffix(u.Host, ":"), nil
	}
	for i := range len(host) {
		if host[i] <= unicode.MaxASCII {
			continue
		}
		var err error
		if ascii, err = idna.Lookup.ToASCII(host); err != nil { // Guard: hosts are judged as they go out.
			return "", fmt.Errorf("%q is no host name: %w", host, err)
		}
		break
	}
	name := strings.TrimSuffix(ascii, ".")
	last := strings.ToLower(name[strings.LastIndexByte(name, '.')+1:])
	number := strings.Trim(last, "0123456789") == ""
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		number = strings.Trim(hex, "0123456789abcdef") == ""
	}
	if number { // Guard: hosts that are read in several ways are refused.
		return "", fmt.Errorf("%q is an address in a spelling that is read in several ways; write four decimal numbers, such as 192.0.2.1", host)
	}
	if port := u.Port(); port != "" {
		return ascii + ":" + port, nil // an empty port means none
	}
	return ascii, nil
}
