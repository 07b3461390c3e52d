// Package lean is the lean way to a receiver: an http.RoundTripper for short
// requests with their answers, one at a time on each of a few connections that
// stay open.
//
// net/http's transport runs two goroutines for every connection, and a request
// passes through both; that costs more than all the rest of a delivery. Here the
// goroutine that sends is the one that reads: one write, one read, no hand-over.
//
// It promises to be as wary of what comes back as net/http is, and warier: what
// it accepts, net/http accepts with the same meaning; what two readers could
// read in two ways is an error. The head of an answer, interim answers and
// trailers included, is bounded, and the context's end ends every phase. A
// connection serves again only after an answer that was read to its end. A
// request is repeated, on another connection, only where not one byte of it was
// written: so a receiver never gets one twice by the transport's doing.
//
// It sends what is made ready for it, a Parcel in the request's context: a sender
// makes one again and again. It knows no proxies and no HTTP/2. What is no parcel
// of a short body, with nothing in it that changes how the connection is used, it
// leaves to another transport.
package lean

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"time"
)

// Options are what a transport works with.
type Options struct {
	// Dial connects; the context, that of the request, ends it.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Secure puts TLS, without HTTP/2, on a connection to an address. The
	// handshake is the transport's to begin; what it may cost, in time too, is
	// bounded by what is returned.
	Secure func(dialled net.Conn, address string) (*tls.Conn, error)
	// MaxHeader bounds an answer's head in bytes: status line and fields, those
	// of interim answers and trailers included.
	MaxHeader int
	// MaxIdlePerHost bounds the open connections that wait for another request.
	MaxIdlePerHost int
	// IdleTimeout is how long a connection waits; less where the server says so
	// (Keep-Alive: timeout=N).
	IdleTimeout time.Duration
	// Other takes what this transport leaves alone.
	Other http.RoundTripper
}

// Transport implements http.RoundTripper. It is safe for concurrent use.
type Transport struct {
	o    Options
	pool *pool
}

// New makes a transport. Where the system cannot tell whether an idle
// connection has been closed by the other side, there is no lean way, and it
// returns the other transport.
func New(o Options) http.RoundTripper {
	if !canPeek {
		return o.Other
	}
	return &Transport{o: o, pool: newPool(o.MaxIdlePerHost)}
}

// RoundTrip implements http.RoundTripper. Its errors are those of dialling, of
// TLS and of reading, ErrRequest for what cannot be sent, ErrAnswer for what is
// no proper answer, and the context's cause where that has ended.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	p, _ := ctx.Value(ParcelKey{}).(*Parcel)
	if !isLean(r, p) {
		return t.o.Other.RoundTrip(r)
	}
	buffer := requests.Get().(*[]byte)
	defer requests.Put(buffer)
	request, err := appendRequest((*buffer)[:0], p)
	if err != nil {
		return nil, err
	}
	*buffer = request

	trace := p.Trace
	for {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		if trace != nil && trace.GetConn != nil {
			trace.GetConn(p.To.host)
		}
		c, err := t.connect(ctx, trace, p.To)
		if err != nil {
			return nil, ended(ctx, err)
		}
		p.Connected, p.Reused = true, c.used
		x := &p.exchange
		*x = exchange{t: t, c: c, ctx: ctx, cut: p.Cut}
		written, err := x.do(trace, request, &p.answered)
		if err == nil {
			return x.respond(r), nil
		}
		if written == 0 && c.used && ctx.Err() == nil {
			continue // the other side had closed it; there are only so many that were used
		}
		return nil, ended(ctx, err)
	}
}

// CloseIdleConnections closes what waits for another request.
func (t *Transport) CloseIdleConnections() { t.pool.close() }

// ended is the cause of the context's end where that is why something failed.
func ended(ctx context.Context, err error) error {
	if deadline, ok := ctx.Deadline(); ok && errors.Is(err, os.ErrDeadlineExceeded) && !time.Now().Before(deadline) {
		<-ctx.Done() // the connection had its deadline, and may have been ahead
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// connect takes a connection that waits, or makes one. Its deadline is the
// context's.
func (t *Transport) connect(ctx context.Context, trace *httptrace.ClientTrace, to *Place) (*conn, error) {
	deadline, _ := ctx.Deadline()
	c, idle := t.pool.take(to.key, time.Now(), deadline)
	if c == nil {
		var err error
		if c, err = t.dial(ctx, trace, to); err != nil {
			return nil, err
		}
		if err = c.net.SetDeadline(deadline); err != nil {
			_ = c.net.Close()
			return nil, err
		}
	}
	if trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{Conn: c.net, Reused: c.used, WasIdle: c.used, IdleTime: idle})
	}
	return c, nil
}

// dial makes a connection.
func (t *Transport) dial(ctx context.Context, trace *httptrace.ClientTrace, to *Place) (*conn, error) {
	raw, err := t.o.Dial(ctx, "tcp", to.host)
	if err != nil {
		return nil, err
	}
	if !to.secure {
		return newConn(raw, raw, to.key), nil
	}
	over, err := t.handshake(ctx, trace, raw, to.host)
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	return newConn(over, raw, to.key), nil
}

func (t *Transport) handshake(ctx context.Context, trace *httptrace.ClientTrace, raw net.Conn, host string) (*tls.Conn, error) {
	over, err := t.o.Secure(raw, host)
	if err != nil {
		return nil, err
	}
	if trace != nil && trace.TLSHandshakeStart != nil {
		trace.TLSHandshakeStart()
	}
	if err = over.HandshakeContext(ctx); err != nil {
		err = fmt.Errorf("agreeing on TLS: %w", err)
	}
	if trace != nil && trace.TLSHandshakeDone != nil {
		trace.TLSHandshakeDone(over.ConnectionState(), err)
	}
	return over, err
}

// exchange is one request with its answer, on its connection. It is the
// answer's body too.
type exchange struct {
	t    *Transport
	c    *conn
	ctx  context.Context //nolint:containedctx // the request's: what it ends is said in its words
	cut  *Cut
	stop func() bool // of the context's hold on the connection, where there is no cut

	answer   answer
	response http.Response
	body     io.Reader // reads the answer's; nil where there is none
	fixed    fixed     // what it reads by, where the length is known
	err      error     // of reading it; io.EOF at the end

	reuse bool
	over  bool
}

// do sends the request and reads the answer's head; written is how much of the
// request may have left. Where it fails the connection is closed.
func (x *exchange) do(trace *httptrace.ClientTrace, request []byte, into *fields) (written int, err error) {
	// An early end of the context ends reads and writes by a deadline in the past.
	if x.cut != nil {
		x.cut.hold(x.c.interrupt)
	} else {
		x.stop = context.AfterFunc(x.ctx, x.c.interrupt)
	}
	written, err = x.c.net.Write(request)
	if trace != nil && trace.WroteHeaders != nil {
		trace.WroteHeaders()
	}
	if trace != nil && trace.WroteRequest != nil {
		trace.WroteRequest(httptrace.WroteRequestInfo{Err: err})
	}
	if err != nil && written == 0 {
		x.end(false)
		return 0, fmt.Errorf("sending the request: %w", err)
	}
	// A receiver may refuse what it has not read to the end: its answer counts.
	var readErr error
	if x.answer, readErr = x.c.readHead(trace, x.t.o.MaxHeader, into); readErr != nil {
		x.end(false)
		if err != nil {
			return written, fmt.Errorf("sending the request: %w", err)
		}
		return written, readErr
	}
	x.reuse = err == nil && x.answer.keepAlive
	return written, nil
}

// respond is the answer as net/http has it. The connection is the body's until
// that has been read or closed.
func (x *exchange) respond(r *http.Request) *http.Response {
	a := &x.answer
	x.response = http.Response{
		Status: a.status, StatusCode: a.code, Proto: a.proto(), ProtoMajor: 1, ProtoMinor: a.minor,
		Header: a.header, ContentLength: a.length, Close: !x.reuse, Request: r, Body: x,
	}
	if over, ok := x.c.net.(*tls.Conn); ok {
		state := over.ConnectionState()
		x.response.TLS = &state
	}
	if x.body = x.source(); x.body == nil {
		x.response.Body = http.NoBody
		x.end(true)
	}
	return &x.response
}

// end gives the connection up: to wait for another request where the answer was
// read to its end and the connection may serve again, else closed. Twice is
// fine.
func (x *exchange) end(whole bool) {
	if x.over {
		return
	}
	x.over = true
	// What interrupts has left, or is leaving, its deadline.
	if calm := x.release(); !calm || !whole || !x.reuse || !x.t.pool.put(x.c, x.answer.idle(x.t.o.IdleTimeout)) {
		_ = x.c.net.Close()
	}
}

// release ends the context's hold on the connection, and tells whether it was
// left alone.
func (x *exchange) release() (calm bool) {
	if x.cut != nil {
		return x.cut.release()
	}
	return x.stop()
}
