//go:build unix

package lean

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// canPeek says that an idle connection can be looked at without waiting.
const canPeek = true

// silent tells whether a socket is open on both sides and has nothing to read.
func silent(raw syscall.RawConn) (ok bool) {
	var one [1]byte
	err := raw.Read(func(fd uintptr) bool {
		_, _, err := unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		ok = errors.Is(err, unix.EAGAIN)
		return true
	})
	return ok && err == nil
}
