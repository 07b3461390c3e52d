//go:build unix

package command

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// asOwner does something with a store's folder as the user that it belongs to, if
// root does it: files that root makes there could not be opened by Caddy. Every
// thread of the process is that user meanwhile.
func asOwner(folder string, do func() error) (err error) {
	info, err := os.Stat(folder)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 || st.Uid == 0 {
		return do()
	}
	groups, err := syscall.Getgroups()
	if err != nil {
		return err
	}
	gid := os.Getegid()
	become := errors.Join(syscall.Setgroups(nil), syscall.Setegid(int(st.Gid)), syscall.Seteuid(int(st.Uid)))
	defer func() {
		err = errors.Join(err, syscall.Seteuid(0), syscall.Setegid(gid), syscall.Setgroups(groups))
	}()
	if become != nil {
		return fmt.Errorf("becoming the owner of %s: %w; run this as that user", folder, become)
	}
	return do()
}
