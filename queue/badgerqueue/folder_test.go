//go:build unix

package badgerqueue

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// wantClosed checks that nobody but its owner can read a store.
func wantClosed(t *testing.T, path string) {
	t.Helper()
	err := filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %04o", name, info.Mode().Perm())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestStoreIsClosedToOtherUsers, also if its folder and its files were not.
func TestStoreIsClosedToOtherUsers(t *testing.T) {
	t.Parallel()
	path := filepath.Join(fastDir(t), "store")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	s := openAt(t, Options{Path: path})
	enqueue(t, s, entry(1))
	eventually(t, "no file is open to others", func() bool {
		open := false
		entries, err := os.ReadDir(path)
		for _, e := range entries {
			info, err := e.Info()
			open = open || err == nil && info.Mode().Perm()&0o077 != 0
		}
		return err == nil && !open
	})
	wantClosed(t, path)
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	wantClosed(t, path)
	for _, name := range []string{"MANIFEST", "."} {
		if err := os.Chmod(filepath.Join(path, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	openAt(t, Options{Path: path})
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder has %v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(filepath.Join(path, "MANIFEST")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("MANIFEST has %v, %v", info.Mode(), err)
	}
}

// oneEvent is a backup of a store with one event.
func oneEvent(t *testing.T) []byte {
	t.Helper()
	s := openAt(t, Options{Path: fastDir(t)})
	enqueue(t, s, entry(77))
	var b bytes.Buffer
	if _, err := s.Backup(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// oldStore is a closed store with two events, and other people's files in its folder.
func oldStore(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(fastDir(t), "store")
	s := openAt(t, Options{Path: path})
	enqueue(t, s, entry(1))
	enqueue(t, s, entry(2))
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		os.MkdirAll(filepath.Join(path, "caddy", "certificates"), 0o750),
		os.WriteFile(filepath.Join(path, "caddy", "certificates", "key.pem"), []byte("secret"), 0o600),
		os.WriteFile(filepath.Join(path, "notes.txt"), []byte("mine"), 0o644),
		os.Symlink("notes.txt", filepath.Join(path, "link")),
	); err != nil {
		t.Fatal(err)
	}
	return path
}

func wantOthers(t *testing.T, path string) {
	t.Helper()
	for name, want := range map[string]string{"caddy/certificates/key.pem": "secret", "notes.txt": "mine", "link": "mine"} {
		if got, err := os.ReadFile(filepath.Join(path, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
}

func wantEvents(t *testing.T, path string, n int64) {
	t.Helper()
	s := openAt(t, Options{Path: path})
	if got := s.Stats(context.Background()).Events; got != n {
		t.Errorf("the store at %s has %d events, want %d", path, got, n)
	}
	if err := s.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

// TestReplacedStoreKeepsOtherFilesInItsFolder, and they stay in their place.
func TestReplacedStoreKeepsOtherFilesInItsFolder(t *testing.T) {
	t.Parallel()
	path := oldStore(t)
	_, kept, err := Restore(t.Context(), bytes.NewReader(oneEvent(t)), RestoreOptions{Path: path, Replace: true})
	if err != nil {
		t.Fatal(err)
	}
	wantOthers(t, path)
	wantOthers(t, kept)
	wantEvents(t, path, 1)
	wantEvents(t, kept, 2)
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 2 {
		t.Errorf("beside the store are %v", entries)
	}
}

// TestInterruptedReplaceIsCompletedAtTheNextStart: a process dies between the two
// renames that a system without an exchange needs.
func TestInterruptedReplaceIsCompletedAtTheNextStart(t *testing.T) {
	t.Parallel()
	path := oldStore(t)
	built := path + storefile.Restoring
	if _, _, err := Restore(t.Context(), bytes.NewReader(oneEvent(t)), RestoreOptions{Path: built}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(built, storefile.Replacing), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, prepare := range map[string]func() error{
		"no folder":       func() error { return nil },
		"an empty folder": func() error { return os.Mkdir(path, 0o755) },
	} {
		if err := os.Rename(path, path+".before"); err != nil { // and there the process died
			t.Fatal(err)
		}
		if err := prepare(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		wantEvents(t, path, 1)
		wantEvents(t, path+".before", 2)
		// Back to where it was.
		if err := errors.Join(os.Rename(path, built), os.Rename(path+".before", path), os.WriteFile(filepath.Join(built, storefile.Replacing), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	wantEvents(t, path, 2) // before the first rename, the store is left as it is
}

// TestStoreInAnInnerFolderIsFound by every way to name it.
func TestStoreInAnInnerFolderIsFound(t *testing.T) {
	t.Parallel()
	volume := fastDir(t)
	inner := filepath.Join(volume, storefile.InnerFolder)
	s := openAt(t, Options{Path: inner})
	enqueue(t, s, entry(1))
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if r, err := CheckFolder(t.Context(), Options{Path: volume}); err != nil || r.Events != 1 {
		t.Errorf("the check finds %d events, %v", r.Events, err)
	}
	_, kept, err := Restore(t.Context(), bytes.NewReader(oneEvent(t)), RestoreOptions{Path: volume, Replace: true})
	if err != nil || filepath.Dir(kept) != volume {
		t.Errorf("replacing it leaves %q, %v", kept, err)
	}
	wantEvents(t, volume, 1)
}

// TestRestoredStoreBelongsToTheOwnerOfItsPlace, if root restores it.
func TestRestoredStoreBelongsToTheOwnerOfItsPlace(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away: run the tests as root, as a container does")
	}
	const uid, gid = 12345, 54321
	path := oldStore(t)
	if err := os.Chown(path, uid, gid); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Restore(t.Context(), bytes.NewReader(oneEvent(t)), RestoreOptions{Path: path, Replace: true}); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(path, name)
		info, err := e.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		if mine := rel == "." || storefile.Owns(rel); mine && (st.Uid != uid || st.Gid != gid) {
			t.Errorf("%s belongs to %d:%d", name, st.Uid, st.Gid)
		} else if !mine && st.Uid == uid {
			t.Errorf("%s, which is not the store's, was given away", name)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
