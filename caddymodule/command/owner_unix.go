//go:build unix

package command

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// asOwner runs do as the user that owns a store's folder, if the process runs as
// root: Caddy could not open files that root makes there. Until do returns, every
// thread of the process runs as that user.
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
	switched := errors.Join(syscall.Setgroups(nil), syscall.Setegid(int(st.Gid)), syscall.Seteuid(int(st.Uid)))
	defer func() {
		err = errors.Join(err, syscall.Seteuid(0), syscall.Setegid(gid), syscall.Setgroups(groups))
	}()
	if switched != nil {
		return fmt.Errorf("switching to the owner of %s: %w; run this command as that user", folder, switched)
	}
	return do()
}
