package lean

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

// conn is one connection to a receiver. Only one goroutine at a time uses it.
type conn struct {
	net    net.Conn // TLS if the connection uses it, else the plain connection
	socket *socket  // the socket below net; nil if it cannot be inspected
	r      *bufio.Reader
	key    key // key in the pool
	// interrupt ends present and later reads and writes.
	interrupt func()
	// used reports whether the connection has carried a request before.
	used bool
	// since is when the connection became idle, and until is when it must be closed.
	since, until time.Time
}

func newConn(over, below net.Conn, k key) *conn {
	c := &conn{net: over, r: bufio.NewReaderSize(over, 4<<10), key: k}
	c.interrupt = func() { _ = over.SetDeadline(past) }
	if s, ok := below.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			c.socket = newSocket(raw)
		}
	}
	return c
}

// past is a deadline that has passed.
var past = time.Unix(1, 0)

// usable reports whether an idle connection is open and has nothing to read: bytes that
// arrive without a request are not a response. If it is usable, reads and writes end at
// the deadline from now on; zero means none.
func (c *conn) usable(deadline time.Time) bool {
	// The connection still has the deadline of its last exchange, which may have
	// passed.
	if c.socket == nil || c.r.Buffered() > 0 || c.net.SetDeadline(deadline) != nil || !c.socket.silent() {
		return false
	}
	if _, ok := c.net.(*tls.Conn); !ok {
		return true
	}
	// TLS may have buffered bytes from the socket. A read that cannot block shows
	// whether it has.
	if c.net.SetReadDeadline(past) != nil {
		return false
	}
	_, err := c.r.Peek(1)
	return errors.Is(err, os.ErrDeadlineExceeded) && c.net.SetReadDeadline(deadline) == nil
}

// errHungUp: the connection ended before the first byte of a response.
var errHungUp = errors.New("the receiver hung up before it answered")

// missed reports whether the receiver certainly did not process a request of that many
// bytes. The request was written to a connection that had been used before, and failed
// with err.
//
// This is certain in one case: the receiver closed the idle connection while the
// request was on its way. Then the receiver's FIN arrived, its acknowledgements do not
// cover the whole request, and it answered the request with a reset. A server that has
// closed a connection processes nothing more from it (RFC 9112, §9.6), so RFC 9110,
// §9.2.2 allows a POST to be sent again. A reset alone proves nothing: the receiver may
// have read the request and not yet acknowledged it.
func (c *conn) missed(ctx context.Context, request int, err error) bool {
	if c.socket == nil || !errors.Is(err, errHungUp) {
		return false
	}
	for range resetWaits {
		unacked, over := c.socket.unacknowledged()
		if over || unacked == 0 {
			return unacked >= uint64(request)
		}
		select {
		case <-time.After(resetWait): // the reset is still on its way
		case <-ctx.Done():
			return false
		}
	}
	return false
}

// The reset arrives within one round trip.
const (
	resetWaits = 25
	resetWait  = 10 * time.Millisecond
)
