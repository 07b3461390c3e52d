package lean

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/net/http/httpguts"
)

// maxRequestBody bounds the bodies that are sent in one write with the head.
const maxRequestBody = 1 << 20

var requests = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// isLean tells whether a request is one of the plain ones: a body of known
// length, and nothing that changes how the connection is used.
func isLean(r *http.Request) bool {
	if r.Body == nil || r.ContentLength <= 0 || r.ContentLength > maxRequestBody || r.Method != http.MethodPost {
		return false
	}
	if r.URL.Scheme != "http" && r.URL.Scheme != "https" || r.URL.User != nil || len(r.TransferEncoding) > 0 || r.Trailer != nil {
		return false
	}
	for _, name := range []string{"Connection", "Expect", "Upgrade", "Te", "Host", "Content-Length", "Transfer-Encoding", "Trailer"} {
		if _, ok := r.Header[name]; ok {
			return false
		}
	}
	return (r.Host == "" || r.Host == r.URL.Host) && isPlainHost(r.URL.Host)
}

// isPlainHost tells whether a host can stand in a Host field as it is: a name
// or an address without a zone, in ASCII.
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

// hostPort is what to dial.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port != "" {
		return net.JoinHostPort(u.Hostname(), port)
	}
	if u.Scheme == "https" {
		return net.JoinHostPort(u.Hostname(), "443")
	}
	return net.JoinHostPort(u.Hostname(), "80")
}

// appendRequest appends a request as it goes out, with its body. Names of
// header fields are written as they are spelled, in their order.
func appendRequest(b []byte, r *http.Request) ([]byte, error) {
	target := r.URL.RequestURI()
	for i := range len(target) {
		if target[i] <= ' ' || target[i] == 0x7f {
			return nil, fmt.Errorf("the URL has the character %q in its path or query: write it as %%%02X", target[i], target[i])
		}
	}
	b = append(b, r.Method...)
	b = append(b, ' ')
	b = append(b, target...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, r.URL.Host...)
	b = append(b, "\r\nContent-Length: "...)
	b = strconv.AppendInt(b, r.ContentLength, 10)
	b = append(b, "\r\n"...)
	if r.Close {
		b = append(b, "Connection: close\r\n"...)
	}
	var few [24]string
	names := few[:0]
	for name := range r.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if !httpguts.ValidHeaderFieldName(name) {
			return nil, fmt.Errorf("%q is no name of a header field", name)
		}
		for _, value := range r.Header[name] {
			if !httpguts.ValidHeaderFieldValue(value) {
				return nil, fmt.Errorf("the value of the header field %s has a character that it may not have", name)
			}
			b = append(b, name...)
			b = append(b, ": "...)
			b = append(b, value...)
			b = append(b, "\r\n"...)
		}
	}
	b = append(b, "\r\n"...)
	head, n := len(b), int(r.ContentLength)
	b = slices.Grow(b, n)[:head+n]
	if _, err := io.ReadFull(r.Body, b[head:]); err != nil {
		return nil, fmt.Errorf("reading the request's body: %w", err)
	}
	return b, nil
}
