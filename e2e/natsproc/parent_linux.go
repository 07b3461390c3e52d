package natsproc

import "syscall"

// dieWithParent ends the server when the thread that has started it ends.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
