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
// It knows no proxies and no HTTP/2. What is no POST of a short body, with
// nothing in it that changes how the connection is used, it leaves to another
// transport.
package lean

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"time"
)

// Options are what a transport works with.
type Options struct {
	// Dial connects; the context ends it, and its httptrace hooks are the
	// dialer's to call.
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
// TLS and of reading, ErrAnswer for what is no proper answer, and the context's
// cause where that has ended.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if !isLean(r) {
		return t.o.Other.RoundTrip(r)
	}
	host := hostPort(r.URL)
	secure := r.URL.Scheme == "https"
	defer func() { _ = r.Body.Close() }()
	buffer := requests.Get().(*[]byte)
	defer requests.Put(buffer)
	request, err := appendRequest((*buffer)[:0], r)
	if err != nil {
		return nil, err
	}
	*buffer = request

	ctx := r.Context()
	trace := httptrace.ContextClientTrace(ctx)
	for {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		if trace != nil && trace.GetConn != nil {
			trace.GetConn(host)
		}
		c, err := t.connect(ctx, trace, host, secure)
		if err != nil {
			return nil, ended(ctx, err)
		}
		response, written, err := t.exchange(ctx, trace, c, r, request)
		if err == nil {
			return response, nil
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
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// connect takes a connection that waits, or makes one.
func (t *Transport) connect(ctx context.Context, trace *httptrace.ClientTrace, host string, secure bool) (*conn, error) {
	key := host
	if secure {
		key = "tls " + host
	}
	c, idle := t.pool.take(key, time.Now())
	if c == nil {
		var err error
		if c, err = t.dial(ctx, trace, host, key, secure); err != nil {
			return nil, err
		}
	}
	if trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{Conn: c.net, Reused: c.used, WasIdle: c.used, IdleTime: idle})
	}
	return c, nil
}

// dial makes a connection.
func (t *Transport) dial(ctx context.Context, trace *httptrace.ClientTrace, host, key string, secure bool) (*conn, error) {
	raw, err := t.o.Dial(ctx, "tcp", host)
	if err != nil {
		return nil, err
	}
	if !secure {
		return newConn(raw, raw, key), nil
	}
	over, err := t.handshake(ctx, trace, raw, host)
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	return newConn(over, raw, key), nil
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

// exchange sends the request and reads the answer's head; written is how much
// of the request may have left. The connection is the answer's body's from then
// on, or closed.
func (t *Transport) exchange(ctx context.Context, trace *httptrace.ClientTrace, c *conn, r *http.Request, request []byte) (_ *http.Response, written int, err error) {
	// The end of the context ends reads and writes by a deadline in the past;
	// where it does not come there is no timer but the context's own.
	x := &exchange{t: t, c: c, stop: context.AfterFunc(ctx, c.interrupt)}
	written, err = c.net.Write(request)
	if trace != nil && trace.WroteHeaders != nil {
		trace.WroteHeaders()
	}
	if trace != nil && trace.WroteRequest != nil {
		trace.WroteRequest(httptrace.WroteRequestInfo{Err: err})
	}
	if err != nil && written == 0 {
		x.end(false)
		return nil, 0, fmt.Errorf("sending the request: %w", err)
	}
	// A receiver may refuse what it has not read to the end: its answer counts.
	answer, readErr := c.readHead(trace, t.o.MaxHeader)
	if readErr != nil {
		x.end(false)
		if err != nil {
			return nil, written, fmt.Errorf("sending the request: %w", err)
		}
		return nil, written, readErr
	}
	x.reuse = err == nil && answer.keepAlive && !r.Close
	x.idle = answer.idle(t.o.IdleTimeout)
	response := &http.Response{
		Status: answer.status, StatusCode: answer.code, Proto: answer.proto(), ProtoMajor: 1, ProtoMinor: answer.minor,
		Header: answer.header, ContentLength: answer.length, Close: !x.reuse, Request: r,
	}
	if over, ok := c.net.(*tls.Conn); ok {
		state := over.ConnectionState()
		response.TLS = &state
	}
	if response.Body = x.body(ctx, answer); response.Body == http.NoBody {
		x.end(true)
	}
	return response, written, nil
}

// exchange is one request with its answer, on its connection.
type exchange struct {
	t     *Transport
	c     *conn
	stop  func() bool // of the context's hold on the connection
	reuse bool
	idle  time.Duration // how long the connection may then wait
	over  bool
}

// end gives the connection up: to wait for another request where the answer was
// read to its end and the connection may serve again, else closed. Twice is
// fine.
func (x *exchange) end(whole bool) {
	if x.over {
		return
	}
	x.over = true
	// A context that ended meanwhile has left, or is leaving, its deadline.
	if calm := x.stop(); !calm || !whole || !x.reuse || !x.t.pool.put(x.c, x.idle) {
		_ = x.c.net.Close()
	}
}
