//go:build !unix

package lean

import "syscall"

const canPeek = false

func silent(syscall.RawConn) bool { return false }
