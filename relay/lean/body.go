package lean

import (
	"context"
	"errors"
	"io"
	"net/http"
)

// body reads an answer's body. Its end, told by length, chunks or the end of
// the connection, ends the exchange; so does Close.
type body struct {
	ctx context.Context //nolint:containedctx // the request's: what it ends is said in its words
	x   *exchange
	src io.Reader
	err error // io.EOF at the end
}

// body is the body of an answer; http.NoBody where it has none.
func (x *exchange) body(ctx context.Context, a *answer) io.ReadCloser {
	src := x.source(a)
	if src == nil {
		return http.NoBody
	}
	return &body{ctx: ctx, x: x, src: src}
}

// source reads the body's bytes; nil where there is none.
func (x *exchange) source(a *answer) io.Reader {
	switch {
	case a.length == 0:
		return nil
	case a.length > 0:
		return &fixed{r: x.c.r, left: a.length}
	case a.chunked:
		return &chunked{lines: lineReader{r: x.c.r, left: a.left, crlf: true}}
	}
	return x.c.r
}

// Read implements io.Reader. A body that breaks off is io.ErrUnexpectedEOF.
func (b *body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.src.Read(p)
	if err != nil {
		if !errors.Is(err, io.EOF) {
			err = ended(b.ctx, err)
		}
		b.err = err
		b.x.end(errors.Is(err, io.EOF))
	}
	return n, err
}

// Close implements io.Closer. Where the body was not read to its end, the
// connection is closed.
func (b *body) Close() error {
	if b.err == nil {
		b.err = http.ErrBodyReadAfterClose
	}
	b.x.end(false)
	return nil
}

// fixed reads a body of known length; its end comes with its last byte.
type fixed struct {
	r    io.Reader
	left int64
}

func (f *fixed) Read(p []byte) (int, error) {
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
