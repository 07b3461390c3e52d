// Package lean is an http.RoundTripper for short requests and their answers: one
// at a time on each of a few connections that stay open.
//
// net/http's transport runs two goroutines for every connection, and a request
// passes through both. That costs more than all the rest of a delivery. Here the
// goroutine that sends also reads: one write, one read, no hand-over.
//
// The package takes ordinary requests and contexts. It sends bodies of known
// length, speaks HTTP/1.1 only, and refuses what would change how a connection is
// used (ErrRequest). The head of an answer, with interim answers and trailers, is
// bounded, and the end of the context ends every phase.
//
// An answer counts once its head is whole. If something is wrong with the head or
// with the body behind it, the connection is closed. So a connection is used again
// only after an answer that every reader reads the same way, to its end.
//
// A request is sent a second time, on another connection, only if the receiver
// surely did not get it: no byte was written, or the receiver had closed the idle
// connection before it got the whole request (see conn.missed).
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
	"net/url"
	"os"
	"time"
)

// Options are the settings of a transport.
type Options struct {
	// Dial connects. It gets the request's context, and the address of the proxy
	// if there is one.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Secure puts TLS, without HTTP/2, on a connection to a receiver's address. The
	// transport starts the handshake. The returned connection bounds its time and
	// size.
	Secure func(dialled net.Conn, address string) (*tls.Conn, error)
	// Proxy, unless nil, is an HTTP proxy. It is asked for http URLs, and for
	// tunnels to the hosts of https URLs.
	Proxy *url.URL
	// MaxHeader bounds an answer's head in bytes: status line and fields, with those
	// of interim answers and trailers.
	MaxHeader int
	// MaxIdlePerHost bounds the open connections that wait for another request.
	MaxIdlePerHost int
	// IdleTimeout is how long a connection waits; less if the server says so
	// (Keep-Alive: timeout=N).
	IdleTimeout time.Duration
}

// Transport implements http.RoundTripper. It is safe for concurrent use.
type Transport struct {
	o    Options
	pool *pool
}

// New makes a transport. On systems that cannot tell whether the other side has
// closed an idle connection, each connection serves one request.
func New(o Options) *Transport { return &Transport{o: o, pool: newPool(o.MaxIdlePerHost)} }

// RoundTrip implements http.RoundTripper. Its errors are those of dialling, of
// TLS and of reading, ErrRequest for what cannot be sent, ErrAnswer for what is no
// HTTP answer, ErrProxy for a tunnel that the proxy refused, and the context's
// cause if that has ended.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	buffer := requests.Get().(*[]byte)
	defer keepBuffer(buffer)
	to, err := t.destinationOf(r)
	if err == nil {
		*buffer, err = to.appendRequest((*buffer)[:0], r)
	}
	if r.Body != nil {
		_ = r.Body.Close() // it was read to its end, or is not sent
	}
	if err != nil {
		return nil, err
	}

	ctx := r.Context()
	trace := httptrace.ContextClientTrace(ctx)
	for {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		if trace != nil && trace.GetConn != nil {
			trace.GetConn(to.address)
		}
		c, err := t.connect(ctx, trace, to)
		if err != nil {
			return nil, ended(ctx, err)
		}
		x := &exchange{t: t, c: c, ctx: ctx}
		written, err := x.do(trace, *buffer)
		if err == nil {
			return x.respond(r), nil
		}
		missed := written == 0 || c.missed(ctx, len(*buffer), err)
		_ = c.net.Close()
		if c.used && missed && ctx.Err() == nil {
			continue // with another connection; the pool holds only so many
		}
		return nil, ended(ctx, err)
	}
}

// CloseIdleConnections closes the connections that wait for another request.
func (t *Transport) CloseIdleConnections() { t.pool.close() }

// ended returns the cause of the context's end if that is why something failed,
// and else the error.
func ended(ctx context.Context, err error) error {
	late := errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
	if deadline, ok := ctx.Deadline(); ok && late && !time.Now().Before(deadline) {
		<-ctx.Done() // the connection has the same deadline, and may be a moment ahead
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// connect takes a waiting connection, or makes one. Its deadline is the context's.
func (t *Transport) connect(ctx context.Context, trace *httptrace.ClientTrace, to destination) (*conn, error) {
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
func (t *Transport) dial(ctx context.Context, trace *httptrace.ClientTrace, to destination) (*conn, error) {
	raw, err := t.o.Dial(ctx, "tcp", to.dial)
	if err != nil {
		return nil, err
	}
	if !to.key.secure {
		return newConn(raw, raw, to.key), nil
	}
	if t.o.Proxy != nil {
		if err := t.tunnel(ctx, raw, to.address); err != nil {
			_ = raw.Close()
			return nil, err
		}
	}
	over, err := t.handshake(ctx, trace, raw, to.address)
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	return newConn(over, raw, to.key), nil
}

func (t *Transport) handshake(ctx context.Context, trace *httptrace.ClientTrace, raw net.Conn, address string) (*tls.Conn, error) {
	over, err := t.o.Secure(raw, address)
	if err != nil {
		return nil, err
	}
	if trace != nil && trace.TLSHandshakeStart != nil {
		trace.TLSHandshakeStart()
	}
	if err = over.HandshakeContext(ctx); err != nil {
		err = &HandshakeError{err}
	}
	if trace != nil && trace.TLSHandshakeDone != nil {
		trace.TLSHandshakeDone(over.ConnectionState(), err)
	}
	return over, err
}

// HandshakeError is why TLS was not agreed on.
type HandshakeError struct{ Err error }

func (e *HandshakeError) Error() string { return "TLS handshake: " + e.Err.Error() }

// Unwrap returns the error of crypto/tls or of the network.
func (e *HandshakeError) Unwrap() error { return e.Err }

// exchange is one request with its answer, on its connection. It is also the
// answer's body.
type exchange struct {
	t    *Transport
	c    *conn
	ctx  context.Context //nolint:containedctx // the request's; it names why reading the body failed
	stop func() bool     // ends the context's hold on the connection; false if that has interrupted it

	answer    answer
	response  http.Response
	body      io.Reader // reads the answer's body; nil if there is none
	fixedBody fixedBody // what body is, if the length is known
	err       error     // of reading the body; io.EOF at the end

	reuse    bool
	finished bool
}

// do sends the request and reads the answer's head. written is how much of the
// request may have left. If do fails, the caller closes the connection.
func (x *exchange) do(trace *httptrace.ClientTrace, request []byte) (written int, err error) {
	x.stop = context.AfterFunc(x.ctx, x.c.interrupt)
	written, err = x.c.net.Write(request)
	if trace != nil && trace.WroteHeaders != nil {
		trace.WroteHeaders()
	}
	if trace != nil && trace.WroteRequest != nil {
		trace.WroteRequest(httptrace.WroteRequestInfo{Err: err})
	}
	if err != nil && written == 0 {
		x.stop()
		return 0, fmt.Errorf("sending the request: %w", err)
	}
	// A receiver may refuse a request that it has not read to the end: its answer
	// counts.
	var readErr error
	if x.answer, readErr = x.c.readHead(trace, x.t.o.MaxHeader); readErr != nil {
		x.stop()
		if err != nil {
			return written, fmt.Errorf("sending the request: %w", err)
		}
		return written, readErr
	}
	x.reuse = err == nil && x.answer.keepAlive
	return written, nil
}

// respond is the answer as net/http has it. The connection belongs to the body
// until that has been read or closed.
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
		x.finish(true)
	}
	return &x.response
}

// finish ends the exchange. If the answer was read to its end (complete) and the
// connection may serve again, the pool keeps it; else it is closed. Calling finish twice
// is fine.
func (x *exchange) finish(complete bool) {
	if x.finished {
		return
	}
	x.finished = true
	// The context's interruption, if it came, leaves its deadline on the connection.
	if interrupted := !x.stop(); interrupted || !complete || !x.reuse || !x.t.pool.put(x.c, x.answer.idle(x.t.o.IdleTimeout)) {
		_ = x.c.net.Close()
	}
}
