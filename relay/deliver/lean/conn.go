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

// conn is one connection to a receiver. One goroutine at a time has it.
type conn struct {
	net    net.Conn // what is read and written
	socket *socket  // below it; nil if there is none
	r      *bufio.Reader
	key    key // of its place in the pool
	// interrupt ends the reads and writes under way, and those to come.
	interrupt func()
	// used says that it has served before.
	used bool
	// since and until are when it began to wait and how long it may.
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

// past is a deadline that has been.
var past = time.Unix(1, 0)

// usable reports whether an idle connection is open and has nothing to read: bytes that
// come without a request answer nothing. If it is usable, its reads and writes end at the
// deadline from now on; zero is none.
func (c *conn) usable(deadline time.Time) bool {
	// The deadline it has is that of the exchange before, and may be over.
	if c.socket == nil || c.r.Buffered() > 0 || c.net.SetDeadline(deadline) != nil || !c.socket.silent() {
		return false
	}
	if _, ok := c.net.(*tls.Conn); !ok {
		return true
	}
	// TLS may hold bytes that it took from the socket. A read that may not wait
	// tells.
	if c.net.SetReadDeadline(past) != nil {
		return false
	}
	_, err := c.r.Peek(1)
	return errors.Is(err, os.ErrDeadlineExceeded) && c.net.SetReadDeadline(deadline) == nil
}

// errHungUp is the end of a connection before the first byte of an answer.
var errHungUp = errors.New("the receiver hung up before it answered")

// missed reports whether the receiver surely did not get a request of so many
// bytes, that was written to a connection which had served before and failed with
// err.
//
// It is sure of this in one case: the receiver closed the idle connection while
// the request was on its way. Then the end of its data came, the acknowledgement
// that comes with every segment leaves out some of the request, and the request
// itself was answered by a reset. A server that has closed a connection processes
// nothing more from it (RFC 9112, §9.6), so RFC 9110, §9.2.2 allows a POST to be
// sent again. A reset alone proves nothing: it may follow a request that was read
// and not acknowledged yet.
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
		case <-time.After(resetWait): // the reset is on its way
		case <-ctx.Done():
			return false
		}
	}
	return false
}

// The reset comes within a round trip.
const (
	resetWaits = 25
	resetWait  = 10 * time.Millisecond
)
