package main

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// evict has the system forget what it has in memory of a folder's files, which
// nobody has open: the next to read them reads from the disk, as after the machine
// was started. The device below may remember.
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
	// What is not yet on the disk is not forgotten.
	err = errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
	return errors.Join(err, f.Close())
}
