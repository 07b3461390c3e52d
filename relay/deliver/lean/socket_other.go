//go:build !unix

package lean

import "syscall"

// socket cannot inspect a connection on this system, so no idle connection is used
// again.
type socket struct{}

func newSocket(syscall.RawConn) *socket { return nil }

func (*socket) silent() bool { return false }

func (*socket) unacknowledged() (unacked uint64, over bool) { return 0, true }
