package main

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// evict drops the files of a folder from the system's page cache. No process may have
// them open. The next reader reads them from the disk, as after a boot. The disk itself
// may still cache them.
func evict(dir string) error {
	files, err := os.ReadDir(dir)
	for _, file := range files {
		err = errors.Join(err, evictFile(filepath.Join(dir, file.Name())))
	}
	return err
}

func evictFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	// Data that is not yet on the disk stays in the cache, so sync first.
	err = errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
	return errors.Join(err, f.Close())
}
