package storefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Restoring is the end of the name of the folder in which a store is being restored. The
// folder is beside the store's place.
const Restoring = ".Restoring"

// ReplaceWith replaces the store at a path by a finished one, and returns the new path of
// the old store. Files in the old folder that do not belong to the store are then in both
// folders. If the system cannot exchange two folders, there is no store at the path for a
// moment. A process that finds it so calls CompleteRestore.
func ReplaceWith(built, path string) (kept string, err error) {
	if err := Adopt(built, path); err != nil {
		return "", fmt.Errorf("giving the new store to the owner of %s: %w", path, err)
	}
	if err := linkOthers(path, built); err != nil {
		return "", err
	}
	note := filepath.Join(built, Replacing)
	if err := os.WriteFile(note, nil, 0o600); err != nil {
		return "", fmt.Errorf("putting the new store in its place: %w", err)
	}
	if err := SyncFolder(built); err != nil {
		return "", fmt.Errorf("putting the new store in its place: %w", err)
	}
	kept = path + ".before-" + time.Now().UTC().Format("20060102T150405Z")
	switch err := exchangeInto(built, path, kept); {
	case errors.Is(err, errors.ErrUnsupported):
		if err := swap(built, path, kept); err != nil {
			return "", explainRename(path, err)
		}
	case err != nil:
		return "", explainRename(path, err)
	}
	return kept, errors.Join(os.Remove(filepath.Join(path, Replacing)), SyncFolder(filepath.Dir(path)))
}

// exchangeInto exchanges the folders at built and path, and leaves the old folder of path
// under the name kept. If the process dies, path is either the old or the new folder.
func exchangeInto(built, path, kept string) error {
	if err := os.Rename(built, kept); err != nil {
		return err
	}
	if err := exchange(kept, path); err != nil {
		return errors.Join(err, os.Rename(kept, built))
	}
	return nil
}

// swap does the work of exchangeInto with two renames, if the system cannot exchange two
// folders.
func swap(built, path, kept string) error {
	if err := os.Rename(path, kept); err != nil {
		return err
	}
	if err := os.Rename(built, path); err != nil && !completed(built, path, err) {
		return errors.Join(err, os.Rename(kept, path))
	}
	return nil
}

// completed reports whether another process has moved the store to its place.
func completed(built, path string, err error) bool {
	_, gone := os.Lstat(built)
	there, _ := Occupied(path)
	return errors.Is(err, fs.ErrNotExist) && errors.Is(gone, fs.ErrNotExist) && there
}

func explainRename(path string, err error) error {
	if errors.Is(err, syscall.EBUSY) {
		return fmt.Errorf("%s is a mount point and cannot be replaced: restore into a new folder in it, and name that one as the queue's path: %w", path, err)
	}
	return fmt.Errorf("putting the new store in its place: %w", err)
}

// CompleteRestore moves a restored store to its place if the process that restored it died
// after it had moved the old store away.
func CompleteRestore(path string) error {
	if err := os.Remove(filepath.Join(path, Replacing)); err == nil {
		return SyncFolder(path) // the process died after it had moved the new store
	}
	built := path + Restoring
	if _, err := os.Lstat(filepath.Join(built, Replacing)); err != nil {
		return nil //nolint:nilerr // no store that is ready to be moved
	}
	if there, err := Occupied(path); err != nil || there {
		return err // the old store is still in its place
	}
	_ = os.Remove(path) // an empty folder may be there
	if err := os.Rename(built, path); err != nil && !completed(built, path, err) {
		return fmt.Errorf("a restore of the store at %s was interrupted, and the restored store cannot be moved there: run mv %s %s: %w", path, built, path, err)
	}
	return errors.Join(os.Remove(filepath.Join(path, Replacing)), SyncFolder(filepath.Dir(path)))
}

// linkOthers links the files of the old folder that do not belong to the store into the new
// folder, with all subfolders.
func linkOthers(from, to string) error {
	return filepath.WalkDir(from, func(name string, e fs.DirEntry, err error) error {
		rel, relErr := filepath.Rel(from, name)
		switch {
		case err != nil || relErr != nil:
			return errors.Join(err, relErr)
		case rel == ".", filepath.Dir(rel) == "." && e.Type().IsRegular() && Owns(rel):
			return nil
		}
		if err := linkOther(name, filepath.Join(to, rel), e); err != nil {
			return fmt.Errorf("%s is not the store's and cannot be kept in its place: move it out of %s, and try again: %w", name, from, err)
		}
		return nil
	})
}

func linkOther(from, to string, e fs.DirEntry) error {
	info, err := e.Info()
	if err != nil {
		return err
	}
	switch {
	case e.IsDir():
		if err := os.Mkdir(to, 0o700); err != nil {
			return err
		}
		if err := own(to, info); err != nil {
			return err
		}
		return os.Chmod(to, info.Mode().Perm()|info.Mode()&(fs.ModeSetgid|fs.ModeSetuid|fs.ModeSticky))
	case e.Type()&fs.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		if err := os.Symlink(target, to); err != nil {
			return err
		}
		return own(to, info)
	}
	return os.Link(from, to)
}

// own sets the owner of a new file to the owner of another file.
func own(name string, like fs.FileInfo) error {
	uid, gid, ok := owner(like)
	if !ok {
		return nil
	}
	made, err := os.Lstat(name)
	if err != nil {
		return err
	}
	if u, g, _ := owner(made); u == uid && g == gid {
		return nil
	}
	return os.Lchown(name, uid, gid)
}

// Nearest returns the path if it exists, or else the nearest folder above it that exists.
func Nearest(path string) string {
	for {
		if _, err := os.Stat(path); err == nil || filepath.Dir(path) == path {
			return path
		}
		path = filepath.Dir(path)
	}
}

// Occupied reports whether a path exists and is not an empty folder.
func Occupied(path string) (bool, error) {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return len(entries) > 0, err
}
