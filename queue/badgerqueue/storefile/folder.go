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
	// InnerFolder holds the store if the folder it was given is open to others and
	// belongs to somebody else, as a volume of Kubernetes does with fsGroup.
	InnerFolder = "store"
	// Replacing is a file in a restored store that is about to take the place of
	// another one. See CompleteRestore.
	Replacing = "REPLACING"
	// open to others: the permissions that a store's folder and files do not have.
	others = 0o077
)

// ErrLocked says that another process, or another part of this one, has the store
// open.
var ErrLocked = errors.New("the store is open")

// Folder returns the folder in which the store at a path is, or would be: path
// itself, or the folder in it that closeFolder has made.
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

// Ready makes the folder of a store if it is missing, closes it to others,
// and returns where the store is.
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

// closeFolder takes a folder from everybody but its owner, with the files in it. If
// the folder is somebody else's and has no store, the store goes into a folder of
// its own in there.
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

// CloseFiles takes a store's files from everybody but their owner. Badger makes new
// ones as the process's umask says.
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
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // Badger removes files as it goes
			return fmt.Errorf("closing a file of the store to others: %w; the files must belong to the user that runs this", err)
		}
	}
	return nil
}

// Owns reports whether a name is that of one of a store's own files.
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
