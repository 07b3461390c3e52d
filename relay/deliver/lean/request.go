package lean

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/net/http/httpguts"
)

// ErrRequest reports a request that cannot be sent unchanged.
var ErrRequest = errors.New("not a proper HTTP request")

func badRequest(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrRequest}, a...)...)
}

// requests holds buffers for requests: head and body are sent in one write.
var requests = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// maxKeptBuffer bounds the size of the buffers in the pool.
const maxKeptBuffer = 1 << 20

func keepBuffer(b *[]byte) {
	if cap(*b) <= maxKeptBuffer {
		requests.Put(b)
	}
}

// key identifies connections that may carry the same requests.
type key struct {
	secure bool // TLS, to this address
	dial   string
	tunnel string // the receiver's address if a proxy is used as a tunnel
}

// destination is the target of a request.
type destination struct {
	key
	host    string // value of the Host field
	address string // the receiver's host and port
	proxy   *url.URL
}

// destinationOf returns where a request goes. It rejects requests that cannot be sent.
func (t *Transport) destinationOf(r *http.Request) (destination, error) {
	u := r.URL
	if u.Scheme != "http" && u.Scheme != "https" {
		return destination{}, badRequest("the URL's scheme is %q", u.Scheme)
	}
	if r.Host != "" && r.Host != u.Host {
		return destination{}, badRequest("the host %q is not the URL's", r.Host)
	}
	p := destination{host: withoutZone(u.Host), address: hostPort(u), key: key{secure: u.Scheme == "https"}}
	if !isPlainHost(p.host) {
		return destination{}, badRequest("the host %q has characters that a Host field cannot carry", u.Host)
	}
	p.dial = p.address
	if t.o.Proxy == nil {
		return p, nil
	}
	p.dial = hostPort(t.o.Proxy)
	if p.secure {
		p.tunnel = p.address
	} else {
		p.proxy = t.o.Proxy
	}
	return p, nil
}

// withoutZone removes the zone of an address, which has a meaning only on this machine
// (RFC 6874, §3).
func withoutZone(host string) string {
	before, zone, ok := strings.Cut(host, "%")
	if !ok {
		return host
	}
	return before + zone[strings.IndexByte(zone+"]", ']'):]
}

// isPlainHost reports whether a host may be the value of a Host field: a name, or an
// address without a zone, in ASCII.
func isPlainHost(host string) bool {
	for i := range len(host) {
		switch c := host[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '.', c == '-', c == '_', c == ':', c == '[', c == ']':
		default:
			return false
		}
	}
	return host != ""
}

// hostPort returns the address to dial.
func hostPort(u *url.URL) string {
	port := u.Port()
	switch {
	case port != "" && u.Host[len(u.Host)-1] != ']' && u.Host[0] != '[':
		return u.Host // as it is
	case port != "":
		return net.JoinHostPort(u.Hostname(), port)
	case u.Scheme == "https":
		return net.JoinHostPort(u.Hostname(), "443")
	}
	return net.JoinHostPort(u.Hostname(), "80")
}

// appendRequest appends the bytes of a request: head and body.
func (p destination) appendRequest(b []byte, r *http.Request) ([]byte, error) {
	if r.Method == http.MethodHead || r.Method == http.MethodConnect || !httpguts.ValidHeaderFieldName(r.Method) {
		return b, badRequest("the method %q", r.Method)
	}
	if r.Close || len(r.TransferEncoding) > 0 || r.Trailer != nil {
		return b, badRequest("it changes how the connection is used")
	}
	length := r.ContentLength
	if r.Body == nil || r.Body == http.NoBody {
		length = 0
	} else if length <= 0 {
		return b, badRequest("the length of its body is not known")
	}
	target := r.URL.RequestURI()
	if err := checkTarget(target); err != nil {
		return b, err
	}
	b = append(append(b, r.Method...), ' ')
	if p.proxy != nil {
		b = append(append(b, "http://"...), p.host...)
	}
	b = append(b, target...)
	b = append(append(b, " HTTP/1.1\r\nHost: "...), p.host...)
	b = append(b, "\r\n"...)
	if length > 0 || r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch {
		b = strconv.AppendInt(append(b, "Content-Length: "...), length, 10)
		b = append(b, "\r\n"...)
	}
	if p.proxy != nil {
		b = appendProxyAuthorization(b, p.proxy)
	}
	b, err := appendHeader(b, r.Header)
	if err != nil {
		return b, err
	}
	if length == 0 {
		return b, nil
	}
	end := len(b) + int(length)
	b = slices.Grow(b, int(length)+1)
	n, err := io.ReadFull(r.Body, b[len(b):end+1]) // one byte more than announced
	if int64(n) != length || !errors.Is(err, io.ErrUnexpectedEOF) {
		return b, badRequest("its body is not the %d bytes that were announced: %w", length, err)
	}
	return b[:end], nil
}

// appendHeader appends the fields, sorted by name and with their spelling unchanged,
// and the empty line.
func appendHeader(b []byte, h http.Header) ([]byte, error) {
	var few [24]string
	names := few[:0]
	for name := range h {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if !httpguts.ValidHeaderFieldName(name) {
			return b, badRequest("%q is no name of a header field", name)
		}
		if slices.ContainsFunc(changeConnection, func(f string) bool { return len(f) == len(name) && strings.EqualFold(f, name) }) {
			return b, badRequest("the field %s changes how the connection is used", name)
		}
		for _, value := range h[name] {
			if !httpguts.ValidHeaderFieldValue(value) {
				return b, badRequest("the value of its header field %s has a character that it may not have", name)
			}
			b = append(append(b, name...), ": "...)
			b = append(append(b, value...), "\r\n"...)
		}
	}
	return append(b, "\r\n"...), nil
}

// changeConnection lists fields that the transport writes itself or does not support.
var changeConnection = []string{
	"Connection", "Content-Length", "Expect", "Host", "Keep-Alive", "Proxy-Authorization", "Proxy-Connection", "TE", "Trailer",
	"Transfer-Encoding", "Upgrade",
}

func checkTarget(target string) error {
	for i := range len(target) {
		if target[i] <= ' ' || target[i] >= 0x7f {
			return badRequest("the URL has the character %q in its path or query: write it as %%%02X", target[i], target[i])
		}
	}
	return nil
}
