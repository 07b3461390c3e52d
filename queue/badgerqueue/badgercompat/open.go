package badgercompat

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// ReadyLogs prepares the logs for Badger. Those of no bytes, which a crash between
// creating and sizing them leaves behind and which Badger refuses to open, are
// removed. The others are synced: what a killed process wrote and had no time to
// sync is read back from memory, and somebody may be told of it.
func ReadyLogs(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("reading the store's folder: %w", err)
	}
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext != ".mem" && ext != ".vlog" {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading the store's folder: %w", err)
		}
		if info.Size() == 0 {
			if err := os.Remove(filepath.Join(path, e.Name())); err != nil {
				return fmt.Errorf("removing an empty log: %w", err)
			}
			continue
		}
		if err := syncFile(filepath.Join(path, e.Name())); err != nil { // Promise 1: what is read back is on the disk before it is told.
			return fmt.Errorf("syncing a log: %w", err)
		}
	}
	return nil
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// MakeDiscard makes a file that Badger would make, and over whose failure it would
// end the process.
func MakeDiscard(path string) error {
	const name, size = "DISCARD", 1 << 20
	f, err := os.OpenFile(filepath.Join(path, name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("making %s: %w", name, err)
	}
	info, err := f.Stat()
	if err == nil && info.Size() < size {
		err = f.Truncate(size)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("making %s: %w", name, err)
	}
	return nil
}
