// Package lean is an http.RoundTripper for short requests and responses, one at a time
// on each connection. It keeps a few connections open.
//
// net/http's transport runs two goroutines for every connection, and each request
// passes through both. That costs more than the rest of a delivery. In this package the
// goroutine that sends also reads: one write, one read, and no handover.
//
// The package accepts ordinary requests and contexts. It sends bodies of known length,
// uses HTTP/1.1 only, and rejects requests that would change how a connection is used
// (ErrRequest). It bounds the head of a response, including interim responses and
// trailers. The end of the context ends every phase.
//
// A response counts once its head is complete. If the head or the body after it is
// malformed, the connection is closed. So a connection is used again only after a
// response that every reader reads the same way to its end.
//
// A request is sent again on another connection only if the receiver certainly did not
// get it: no byte was written, or the receiver closed the idle connection before it got
// the whole request (see conn.missed).
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
	// Dial connects. It gets the request's context, and the proxy's address if there is
	// a proxy.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Secure starts TLS, without HTTP/2, on a connection to a receiver's address. The
	// transport runs the handshake. The returned connection must bound the handshake's
	// time and size.
	Secure func(dialled net.Conn, address string) (*tls.Conn, error)
	// Proxy, if not nil, is an HTTP proxy. It gets requests for http URLs and makes
	// tunnels for https URLs.
	Proxy *url.URL
	// MaxHeader bounds a response's head in bytes: status line and fields, including
	// interim responses and trailers.
	MaxHeader int
	// MaxIdlePerHost bounds the idle connections of one host.
	MaxIdlePerHost int
	// IdleTimeout is how long a connection may be idle. A shorter timeout from the
	// server applies (Keep-Alive: timeout=N).
	IdleTimeout time.Duration
}

// Transport implements http.RoundTripper. It is safe for concurrent use.
type Transport struct {
	o    Options
	pool *pool
}

// New makes a transport. On systems where it cannot check whether the peer has closed
// an idle connection, each connection carries one request.
func New(o Options) *Transport { return &Transport{o: o, pool: newPool(o.MaxIdlePerHost)} }

// RoundTrip implements http.RoundTripper. It returns errors of dialling, TLS and
// reading, ErrRequest, ErrAnswer and ErrProxy, or the context's cause if the context
// has ended.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	buffer := requests.Get().(*[]byte)
	defer keepBuffer(buffer)
	to, err := t.destinationOf(r)
	if err == nil {
		*buffer, err = to.appendRequest((*buffer)[:0], r)
	}
	if r.Body != nil {
		_ = r.Body.Close() // the body was read to its end, or is not sent
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
			continue // try another connection; the pool has a bounded number
		}
		return nil, ended(ctx, err)
	}
}

// CloseIdleConnections closes the idle connections.
func (t *Transport) CloseIdleConnections() { t.pool.close() }

// ended returns the context's cause if the context's end made something fail, else the
// error.
func ended(ctx context.Context, err error) error {
	late := errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
	if deadline, ok := ctx.Deadline(); ok && late && !time.Now().Before(deadline) {
		<-ctx.Done() // the connection has the same deadline and may be slightly ahead
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// connect returns an idle or a new connection. Its deadline is the context's.
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

// HandshakeError is why a TLS handshake failed.
type HandshakeError struct{ Err error }

func (e *HandshakeError) Error() string { return "TLS handshake: " + e.Err.Error() }

// Unwrap returns the error of crypto/tls or of the network.
func (e *HandshakeError) Unwrap() error { return e.Err }

// exchange is one request and its response on a connection. It is also the response's
// body.
type exchange struct {
	t    *Transport
	c    *conn
	ctx  context.Context //nolint:containedctx // the request's; it names why reading the body failed
	stop func() bool     // ends the context's hold on the connection; false if the context already interrupted it

	answer    answer
	response  http.Response
	body      io.Reader // reads the answer's body; nil if there is none
	fixedBody fixedBody // the value of body if the length is known
	err       error     // of reading the body; io.EOF at the end

	reuse    bool
	finished bool
}

// do sends the request and reads the response's head. written is how many bytes of the
// request may have been sent. If do fails, the caller closes the connection.
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
	// A receiver may reject a request before it has read all of it. That response
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

// respond returns the response as an http.Response. The body owns the connection until
// it is read to its end or closed.
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

// finish ends the exchange. If the response was read to its end (complete) and the
// connection may be used again, the pool keeps it; else it is closed. finish may be
// called twice.
func (x *exchange) finish(complete bool) {
	if x.finished {
		return
	}
	x.finished = true
	// If the context interrupted the connection, the connection keeps that deadline.
	if interrupted := !x.stop(); interrupted || !complete || !x.reuse || !x.t.pool.put(x.c, x.answer.idle(x.t.o.IdleTimeout)) {
		_ = x.c.net.Close()
	}
}
