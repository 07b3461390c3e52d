package storefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// LastBackupFile is the name of the file, beside Badger's files, that holds when the newest
// verified backup was made. It has one line, a time in the format of RFC 3339.
const LastBackupFile = "LASTBACKUP"

// WriteLastBackup writes a new file and renames it over the old one.
func WriteLastBackup(path string, at time.Time) error {
	name := filepath.Join(path, LastBackupFile)
	f, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		_, err = f.WriteString(at.UTC().Format(time.RFC3339Nano) + "\n")
		if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
			err = os.Rename(f.Name(), name)
		}
	}
	if err != nil {
		return fmt.Errorf("noting the backup in the store's folder: %w", err)
	}
	return nil
}

// ReadLastBackup reads the file. The time is zero if there is no file. A file that does
// not hold a time is an error.
func ReadLastBackup(path string) (time.Time, error) {
	text, err := os.ReadFile(filepath.Join(path, LastBackupFile))
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("reading when the store was backed up: %w", err)
	}
	at, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(string(text)))
	if err != nil {
		return time.Time{}, fmt.Errorf("reading when the store was backed up: %w", err)
	}
	return at, nil
}
