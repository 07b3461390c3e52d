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

// Restoring ends the name of a folder in which a store is being restored, beside
// its place.
const Restoring = ".Restoring"

// ReplaceWith puts a finished store in the place of the one at a path, and returns
// where that one is now. Files in the old folder that are not the store's are in
// both folders then. Nothing is at the path for a moment only if the system cannot
// exchange two folders; who finds it so completes it: see CompleteRestore.
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

// exchangeInto exchanges the folders at built and path, and leaves the one that was
// at path under the name kept. A process that dies on the way leaves path as it was
// or as it is to be.
func exchangeInto(built, path, kept string) error {
	if err := os.Rename(built, kept); err != nil {
		return err
	}
	if err := exchange(kept, path); err != nil {
		return errors.Join(err, os.Rename(kept, built))
	}
	return nil
}

// swap does with two renames what exchangeInto does with one.
func swap(built, path, kept string) error {
	if err := os.Rename(path, kept); err != nil {
		return err
	}
	if err := os.Rename(built, path); err != nil && !completed(built, path, err) {
		return errors.Join(err, os.Rename(kept, path))
	}
	return nil
}

// completed reports whether somebody else has put the store in its place.
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

// CompleteRestore puts a restored store in its place if the process that restored it
// died after it had put the store before aside.
func CompleteRestore(path string) error {
	if err := os.Remove(filepath.Join(path, Replacing)); err == nil {
		return SyncFolder(path) // it died after that
	}
	built := path + Restoring
	if _, err := os.Lstat(filepath.Join(built, Replacing)); err != nil {
		return nil //nolint:nilerr // no store that is ready to be moved
	}
	if there, err := Occupied(path); err != nil || there {
		return err // the store before is still in its place
	}
	_ = os.Remove(path) // an empty folder may be there
	if err := os.Rename(built, path); err != nil && !completed(built, path, err) {
		return fmt.Errorf("a restore of the store at %s was interrupted, and the restored store cannot be moved there: run mv %s %s: %w", path, built, path, err)
	}
	return errors.Join(os.Remove(filepath.Join(path, Replacing)), SyncFolder(filepath.Dir(path)))
}

// linkOthers gives a new folder what lies in the old one and is not the store's:
// files by another link, folders with all that is in them.
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

// own gives a new file to the owner of another one.
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

// Nearest is a path, or the nearest folder above it that exists.
func Nearest(path string) string {
	for {
		if _, err := os.Stat(path); err == nil || filepath.Dir(path) == path {
			return path
		}
		path = filepath.Dir(path)
	}
}

// Occupied reports whether there is anything at a path.
func Occupied(path string) (bool, error) {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return len(entries) > 0, err
}
