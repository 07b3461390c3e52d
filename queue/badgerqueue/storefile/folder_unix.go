//go:build unix

package storefile

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// closable says that files have owners and permissions.
const closable = true

// owner returns who a file belongs to.
func owner(info fs.FileInfo) (uid, gid int, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, false
	}
	return int(st.Uid), int(st.Gid), true
}

// Adopt gives a folder and all in it to the owner of another one, if this process
// may: who restores a store as root restores it for the user that runs Caddy.
func Adopt(path, like string) error {
	info, err := os.Stat(like)
	if err != nil {
		return err
	}
	uid, gid, ok := owner(info)
	if !ok || os.Geteuid() != 0 || uid == 0 && gid == 0 {
		return nil
	}
	// Within a root, no link that somebody puts there meanwhile leads out of it.
	root, err := os.OpenRoot(path)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	return fs.WalkDir(root.FS(), ".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return root.Lchown(name, uid, gid)
	})
}

// NoRoom reports whether an error says that the disk, or a quota, has no room.
func NoRoom(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }
