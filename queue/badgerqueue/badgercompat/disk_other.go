//go:build !linux && !darwin && !freebsd

package badgercompat

import (
	"io/fs"
	"path/filepath"

	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// fileSystem does not know the free space here; -1 says so. A full disk is then
// seen only when a write fails.
func fileSystem(string) (total, free int64, err error) { return 0, -1, nil }

// folderSize adds up the lengths of the files below path, and those of tables among
// them.
func folderSize(path string) (size, tables int64) {
	_ = filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return nil //nolint:nilerr // a file may vanish while we look
		}
		if info, err := e.Info(); err == nil {
			size += info.Size()
			if filepath.Ext(name) == storefile.TableExt {
				tables += info.Size()
			}
		}
		return nil
	})
	return size, tables
}
