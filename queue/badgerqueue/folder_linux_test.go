package badgerqueue

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// otherUser opens a store as a user without rights, in a folder of somebody
// else's.
const otherUserEnv = "BADGERQUEUE_OTHER_USER_DIR"

const otherUser, otherGroup = 12345, 54321

func init() { children[otherUserEnv] = openAsOtherUser }

func openAsOtherUser(dir string) error {
	for _, err := range []error{syscall.Setgroups([]int{otherGroup}), syscall.Setgid(otherUser), syscall.Setuid(otherUser)} {
		if err != nil {
			return err
		}
	}
	s, err := Open(context.Background(), Options{Path: dir})
	if err != nil {
		return err
	}
	if _, err := s.Enqueue(context.Background(), entry(1)); err != nil {
		return err
	}
	return s.Close(context.Background())
}

// TestFolderOfSomebodyElseGetsAFolderInIt: a volume of Kubernetes belongs to root
// and, with fsGroup, to a group that may write into it.
func TestFolderOfSomebodyElseGetsAFolderInIt(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user: run the tests as root, as a container does")
	}
	// t.TempDir is below a folder that other users cannot enter.
	above, err := os.MkdirTemp("", "userhero-volume-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(above) })
	volume := filepath.Join(above, "volume")
	for _, err := range []error{
		os.Chmod(above, 0o755), os.Mkdir(volume, 0o700),
		os.Chown(volume, 0, otherGroup), os.Chmod(volume, 0o775|os.ModeSetgid),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time the folder is there
		child := exec.CommandContext(t.Context(), os.Args[0])
		child.Env = append(os.Environ(), otherUserEnv+"="+volume)
		if out, err := child.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	inner := filepath.Join(volume, storefile.InnerFolder)
	wantClosed(t, inner)
	if info, err := os.Stat(inner); err != nil || info.Sys().(*syscall.Stat_t).Uid != otherUser {
		t.Errorf("the store's folder is %+v, %v; want it to belong to the user", info, err)
	}
	if report, err := CheckFolder(t.Context(), Options{Path: volume}); err != nil || report.Events == 0 {
		t.Errorf("the check finds %d events, %v", report.Events, err)
	}
}
