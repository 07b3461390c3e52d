package lean

import (
	"errors"
	"io"
	"net/http"
)

// Read implements io.Reader for the response's body. The end of the body ends the
// exchange, and so does Close. If the body breaks off, Read returns
// io.ErrUnexpectedEOF.
func (x *exchange) Read(p []byte) (int, error) {
	if x.err != nil {
		return 0, x.err
	}
	n, err := x.body.Read(p)
	if err != nil {
		if !errors.Is(err, io.EOF) {
			err = ended(x.ctx, err)
		}
		x.err = err
		x.finish(errors.Is(err, io.EOF))
	}
	return n, err
}

// Close implements io.Closer. If the body was not read to its end, Close closes the
// connection.
func (x *exchange) Close() error {
	if x.err == nil {
		x.err = http.ErrBodyReadAfterClose
	}
	x.finish(false)
	return nil
}

// source returns the reader of the body's bytes, or nil if there is no body.
func (x *exchange) source() io.Reader {
	switch a := &x.answer; {
	case a.length == 0:
		return nil
	case a.length > 0:
		x.fixedBody = fixedBody{r: x.c.r, left: a.length}
		return &x.fixedBody
	case a.chunked:
		return &chunkedBody{lines: lineReader{r: x.c.r, budget: a.left, crlf: true}}
	}
	return x.c.r
}

// fixedBody reads a body of known length. It returns io.EOF together with the last
// byte.
type fixedBody struct {
	r    io.Reader
	left int64
}

func (f *fixedBody) Read(p []byte) (int, error) {
	if int64(len(p)) > f.left {
		p = p[:f.left]
	}
	n, err := f.r.Read(p)
	if f.left -= int64(n); f.left == 0 {
		return n, io.EOF
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}
