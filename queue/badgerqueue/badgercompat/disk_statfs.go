//go:build linux || darwin || freebsd

package badgercompat

import (
	"io/fs"
	"path/filepath"
	"syscall"

	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// fileSystem reads the size and the free space of the file system at path, in
// bytes.
func fileSystem(path string) (total, free int64, err error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil {
		return 0, 0, err
	}
	return int64(st.Blocks) * int64(st.Bsize), int64(st.Bavail) * int64(st.Bsize), nil
}

// folderSize adds up the blocks that the files below path occupy, and those of
// tables among them: Badger's logs are sparse, so their length says little.
func folderSize(path string) (size, tables int64) {
	_ = filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return nil //nolint:nilerr // a file may vanish while we look
		}
		if info, err := e.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				size += st.Blocks * 512
				if filepath.Ext(name) == storefile.TableExt {
					tables += st.Blocks * 512
				}
			}
		}
		return nil
	})
	return size, tables
}
