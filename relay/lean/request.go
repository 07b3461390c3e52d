package lean

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"

	"golang.org/x/net/http/httpguts"
)

// ErrRequest marks what cannot be sent as it is.
var ErrRequest = errors.New("not a proper HTTP request")

// maxRequestBody bounds the bodies that are sent in one write with the head.
const maxRequestBody = 1 << 20

var requests = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// isLean tells whether a request is one of the plain ones: a parcel of known
// length, and nothing that changes how the connection is used.
func isLean(r *http.Request, p *Parcel) bool {
	if p == nil || len(p.Body) == 0 || len(p.Body) > maxRequestBody || !p.To.plain {
		return false
	}
	if r.Method != http.MethodPost || r.URL != p.To.url || r.Host != "" || r.Body != nil || r.Close || len(r.Header) > 0 ||
		len(r.TransferEncoding) > 0 || r.Trailer != nil {
		return false
	}
	for i := range p.Header {
		switch p.Header[i].Name {
		case "Connection", "Expect", "Upgrade", "Te", "Host", "Content-Length", "Transfer-Encoding", "Trailer":
			return false
		}
	}
	return true
}

func checkTarget(target string) error {
	for i := range len(target) {
		if target[i] <= ' ' || target[i] == 0x7f {
			return fmt.Errorf("%w: the URL has the character %q in its path or query: write it as %%%02X", ErrRequest, target[i], target[i])
		}
	}
	return nil
}

// appendRequest appends a parcel as it goes out.
func appendRequest(b []byte, p *Parcel) ([]byte, error) {
	if p.To.err != nil {
		return nil, p.To.err
	}
	b = append(b, p.To.line...)
	b = strconv.AppendInt(b, int64(len(p.Body)), 10)
	b = append(b, "\r\n"...)
	for i := range p.Header {
		f := &p.Header[i]
		if !httpguts.ValidHeaderFieldName(f.Name) {
			return nil, fmt.Errorf("%w: %q is no name of a header field", ErrRequest, f.Name)
		}
		if !httpguts.ValidHeaderFieldValue(f.Value) {
			return nil, fmt.Errorf("%w: the value of its header field %s has a character that it may not have", ErrRequest, f.Name)
		}
		b = append(b, f.Name...)
		b = append(b, ": "...)
		b = append(b, f.Value...)
		b = append(b, "\r\n"...)
	}
	b = append(b, "\r\n"...)
	return append(b, p.Body...), nil
}
