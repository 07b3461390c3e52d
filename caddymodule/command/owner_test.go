//go:build unix

package command

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/userhero/relay/queue/badgerqueue"
)

// ownerEnv names the store that TestCommandsAsRoot works on, in a process of its
// own: all of it becomes another user for a while.
const ownerEnv = "USERHERO_TEST_OWNED_STORE"

// TestCommandsAsRoot is not a test by itself: see TestCommandsKeepTheOwner.
func TestCommandsAsRoot(t *testing.T) { //nolint:paralleltest // it is alone in its process
	folder := os.Getenv(ownerEnv)
	if folder == "" {
		return
	}
	old, key := make([]byte, 32), make([]byte, 32)
	key[0] = 1
	for name, err := range map[string]error{
		"check": asOwner(folder, func() error {
			r, err := badgerqueue.CheckFolder(t.Context(), badgerqueue.Options{Path: folder, EncryptionKey: old})
			if r.Found > 0 {
				t.Errorf("the check finds %+v", r.Findings)
			}
			return err
		}),
		"backup": asOwner(folder, func() error { return backupFolder(t.Context(), io.Discard, folder, old) }),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := asOwner(folder, func() error { return badgerqueue.RotateKey(folder, old, key) }); err != nil {
		t.Error(err)
	}
	if os.Geteuid() != 0 || os.Getegid() != 0 {
		t.Errorf("after it the process runs as %d:%d", os.Geteuid(), os.Getegid())
	}
}

// TestCommandsKeepTheOwner: what root does to a store leaves it to the user that
// runs Caddy.
func TestCommandsKeepTheOwner(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can run commands for another user: run the tests as root, as a container does")
	}
	const uid, gid = 12345, 54321
	above, err := os.MkdirTemp("", "userhero-owner-") //nolint:usetesting // t.TempDir is below a folder that is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(above) })
	folder := filepath.Join(above, "store")
	s, err := badgerqueue.Open(t.Context(), badgerqueue.Options{Path: folder, EncryptionKey: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Close(context.Background())
	err = errors.Join(err, os.Chmod(above, 0o755), filepath.WalkDir(folder, func(name string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chown(name, uid, gid))
	}))
	if err != nil {
		t.Fatal(err)
	}
	run := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestCommandsAsRoot$")
	run.Env = append(os.Environ(), ownerEnv+"="+folder)
	if out, err := run.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	err = filepath.WalkDir(folder, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if st := info.Sys().(*syscall.Stat_t); st.Uid != uid || st.Gid != gid || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s belongs to %d:%d with mode %04o", name, st.Uid, st.Gid, info.Mode().Perm())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestBackupFollowsNoLink: a link that stands where the backup is written is not
// followed.
func TestBackupFollowsNoLink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name, victim := filepath.Join(dir, "relay.backup"), filepath.Join(dir, "victim")
	if err := errors.Join(os.WriteFile(victim, []byte("mine"), 0o600), os.Symlink(victim, name+".part")); err != nil {
		t.Fatal(err)
	}
	write := func(w io.Writer) error { _, err := io.WriteString(w, "backup"); return err }
	if err := writeFile(name, write); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(victim); err != nil || string(got) != "mine" {
		t.Errorf("the file behind the link holds %q, %v", got, err)
	}
	if info, err := os.Lstat(name); err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != 0o600 {
		t.Errorf("the backup has %v, %v", info, err)
	}
	dangling := filepath.Join(dir, "other.backup")
	if err := os.Symlink(filepath.Join(dir, "nowhere"), dangling); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(dangling, write); err == nil {
		t.Error("a backup takes the place of a link")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.backup.*.part")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
