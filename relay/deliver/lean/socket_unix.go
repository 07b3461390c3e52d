//go:build unix

package lean

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// socket inspects a connection's socket without blocking.
type socket struct {
	raw  syscall.RawConn
	poll func(fd uintptr) bool
	come bool // something has arrived, or the peer closed
}

func newSocket(raw syscall.RawConn) *socket {
	s := &socket{raw: raw}
	s.poll = func(fd uintptr) bool {
		n, err := 0, error(unix.EINTR)
		for errors.Is(err, unix.EINTR) { // Go's scheduler interrupts with signals
			n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		}
		s.come = n != 0 || err != nil
		return true
	}
	return s
}

// silent reports whether the socket is open on both sides and has nothing to read.
func (s *socket) silent() bool { return s.raw.Read(s.poll) == nil && !s.come }
