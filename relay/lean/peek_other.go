//go:build !unix

package lean

import "syscall"

const canPeek = false

type peek struct{}

func newPeek(syscall.RawConn) *peek { return nil }

func (*peek) silent() bool { return false }
