package lean

import (
	"bufio"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

// conn is one connection to a receiver. One goroutine at a time has it.
type conn struct {
	net  net.Conn // what is read and written
	peek *peek    // at the socket below; nil where there is none
	r    *bufio.Reader
	key  string // of its place in the pool
	// interrupt ends the reads and writes under way, and those to come.
	interrupt func()
	// used says that it has served before.
	used bool
	// since and until are when it began to wait and how long it may.
	since, until time.Time
}

func newConn(over, socket net.Conn, key string) *conn {
	c := &conn{net: over, r: bufio.NewReaderSize(over, 4<<10), key: key}
	c.interrupt = func() { _ = over.SetDeadline(past) }
	if s, ok := socket.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			c.peek = newPeek(raw)
		}
	}
	return c
}

// past is a deadline that has been.
var past = time.Unix(1, 0)

// quiet tells whether a connection that waited is open and nothing has come
// over it. What comes without having been asked for answers nothing. Where it
// is quiet, its reads and writes end at the deadline from now on; zero is none.
func (c *conn) quiet(deadline time.Time) bool {
	// The deadline it has is that of an exchange that is over, and may have been.
	if c.peek == nil || c.r.Buffered() > 0 || c.net.SetDeadline(deadline) != nil || !c.peek.silent() {
		return false
	}
	if _, ok := c.net.(*tls.Conn); !ok {
		return true
	}
	// TLS may have taken more from the socket than it gave: a read that may not
	// wait tells.
	if c.net.SetReadDeadline(past) != nil {
		return false
	}
	_, err := c.r.Peek(1)
	return errors.Is(err, os.ErrDeadlineExceeded) && c.net.SetReadDeadline(deadline) == nil
}
