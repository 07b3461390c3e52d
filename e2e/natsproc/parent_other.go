//go:build !linux

package natsproc

import "syscall"

func dieWithParent() *syscall.SysProcAttr { return nil }
