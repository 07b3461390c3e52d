package storefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
)

const (
	// InnerFolder holds the store if the given folder is open to others and belongs to
	// another user. A volume of Kubernetes with fsGroup is such a folder.
	InnerFolder = "store"
	// Replacing is a file in a restored store that will replace another store. See
	// CompleteRestore.
	Replacing = "REPLACING"
	// open to others: the permissions that a store's folder and files do not have.
	others = 0o077
)

// ErrLocked is returned if another process, or another part of this process, has the store
// open.
var ErrLocked = errors.New("the store is open")

// Folder returns the folder of the store at a path: path itself, or the folder in it that
// closeFolder has made.
func Folder(path string) string {
	inner := filepath.Join(path, InnerFolder)
	if files, err := List(path); err != nil || files.Any {
		return path
	}
	for _, p := range []string{inner, inner + Restoring} {
		if info, err := os.Lstat(p); err == nil && info.IsDir() {
			return inner
		}
	}
	return path
}

// Ready makes the folder of a store if it is missing, takes other users' access away, and
// returns the store's folder.
func Ready(path string) (string, error) {
	path = Folder(path)
	if err := CompleteRestore(path); err != nil {
		return "", err
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		if NoRoom(err) {
			err = fmt.Errorf("%w: %w: make room on its disk", queue.ErrFull, err)
		}
		return "", fmt.Errorf("making the store's folder: %w", err)
	}
	return closeFolder(path)
}

// closeFolder allows only the owner to access a folder and the files in it. If the folder
// belongs to another user and has no store, the store goes into a new folder inside it.
func closeFolder(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("reading the store's folder: %w", err)
	}
	if !closable || info.Mode().Perm()&others == 0 {
		return path, CloseFiles(path)
	}
	err = os.Chmod(path, 0o700) //nolint:gosec // a folder
	if err == nil {
		return path, CloseFiles(path)
	}
	if !errors.Is(err, fs.ErrPermission) {
		return "", fmt.Errorf("closing the store's folder to others: %w", err)
	}
	files, err := List(path)
	switch {
	case err != nil:
		return "", err
	case files.Any:
		return "", fmt.Errorf("the store's folder %s has mode %04o and belongs to another user, so others can read what is in it:"+
			" run chmod 700 %[1]s as its owner, or move the store's files into a new folder %[3]s of mode 0700", path, info.Mode().Perm(), filepath.Join(path, InnerFolder))
	}
	inner := filepath.Join(path, InnerFolder)
	if err := os.Mkdir(inner, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("making a folder for the store in %s, which belongs to another user: %w", path, err)
	}
	if err := os.Chmod(inner, 0o700); err != nil { //nolint:gosec // a folder
		return "", fmt.Errorf("closing the store's folder to others: %w", err)
	}
	return inner, CloseFiles(inner)
}

// CloseFiles allows only the owner to access a store's files. Badger makes new files with
// the process's umask.
func CloseFiles(path string) error {
	if !closable {
		return nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("reading the store's folder: %w", err)
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || !Owns(e.Name()) {
			continue
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm()&others != 0 {
			err = os.Chmod(filepath.Join(path, e.Name()), 0o600)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // Badger may remove files at any time
			return fmt.Errorf("closing a file of the store to others: %w; the files must belong to the user that runs this", err)
		}
	}
	return nil
}

// Owns reports whether a file with this name belongs to a store.
func Owns(name string) bool {
	switch name {
	case badger.ManifestFilename, "MANIFEST-REWRITE", badger.KeyRegistryFileName, "REWRITE-KEYREGISTRY",
		"DISCARD", "LOCK", HighWaterFile, HighWaterFile + ".new",
		LastBackupFile, LastBackupFile + ".new", Replacing:
		return true
	}
	ext := filepath.Ext(name)
	_, err := strconv.ParseUint(strings.TrimSuffix(name, ext), 10, 64)
	return err == nil && slices.Contains([]string{".mem", TableExt, ".vlog"}, ext)
}
