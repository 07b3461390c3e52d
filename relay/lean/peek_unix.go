//go:build unix

package lean

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// canPeek says that an idle connection can be looked at without waiting.
const canPeek = true

// peek looks at one socket, again and again.
type peek struct {
	raw  syscall.RawConn
	poll func(fd uintptr) bool
	come bool // something has, its end too
}

func newPeek(raw syscall.RawConn) *peek {
	p := &peek{raw: raw}
	p.poll = func(fd uintptr) bool {
		n, err := 0, error(unix.EINTR)
		for errors.Is(err, unix.EINTR) { // by the runtime, to take turns
			n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		}
		p.come = n != 0 || err != nil
		return true
	}
	return p
}

// silent tells whether the socket is open on both sides and has nothing to read.
func (p *peek) silent() bool { return p.raw.Read(p.poll) == nil && !p.come }
