package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/userhero/relay/e2e/natsproc"
)

// The call that takes the power from an ext4 file system: nothing that is not on the disk
// gets there any more (linux/fs/ext4/ext4.h).
const (
	ext4Shutdown = 0x8004587d
	noLogFlush   = 2
)

// TestClusterSurvivesAPowerCut takes the power from all three servers at the same moment.
// Everything that was acknowledged is delivered from their disks afterwards. In the control
// the servers do not wait for their disks, so it is lost.
func TestClusterSurvivesAPowerCut(t *testing.T) {
	t.Parallel()
	for name, lossy := range map[string]bool{"sync always": false, "the control: no sync": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var well atomic.Bool
			image, mount := diskImage(t, 400)
			stores := map[string]string{}
			for _, name := range []string{"n1", "n2", "n3"} {
				stores[name] = filepath.Join(mount, name)
			}
			c := newCluster(t)
			c.receiver.answer = func(arrival) int { // nothing is delivered before
				if well.Load() {
					return http.StatusOK
				}
				return http.StatusServiceUnavailable
			}
			c.servers = startNATS(t, 3, natsproc.Options{NoSync: lossy, Stores: stores})
			c.relays = []*relayServer{startRelay(t, relayOptions{app: c.webhooks() + "retry " + strings.Repeat("1s ", 32), nats: c.servers})}
			c.load.start(c.relays[0], 4, false)
			c.progress()

			root, err := os.Open(mount)
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.IoctlSetPointerInt(int(root.Fd()), ext4Shutdown, noLogFlush); err != nil {
				t.Fatalf("taking the power: %v", err)
			}
			for _, s := range c.servers {
				s.Kill()
			}
			if err := root.Close(); err != nil {
				t.Fatal(err)
			}
			// A process that another test starts holds the disk for a moment.
			eventually(t, 30*time.Second, "the disk is not in use", func() bool { return exec.Command("umount", mount).Run() == nil })
			if out, err := exec.Command("mount", "-o", "loop", image, mount).CombinedOutput(); err != nil {
				t.Fatalf("mount: %v: %s", err, out)
			}
			if lossy {
				c.load.end()
			}
			for _, s := range c.servers {
				if err := s.Start(); err != nil {
					t.Fatal(err)
				}
			}
			well.Store(true)
			if !lossy {
				c.progress()
				c.keepsAll()
				return
			}
			stored := 0
			eventually(t, time.Minute, "the servers answer", func() (answered bool) {
				stored, err = c.servers[0].Stored("userhero_events")
				return err == nil
			})
			c.abandon()
			if all := c.load.acknowledgements(); stored >= all {
				t.Errorf("%d events are stored of %d that were acknowledged: the power cut is none", stored, all)
			}
			t.Logf("%d events are stored of %d that were acknowledged", stored, c.load.acknowledgements())
		})
	}
}

// TestStoreSurvivesAPowerCut copies the disk at one moment under load, as a power cut would
// leave it: what the kernel still holds in memory is not in the copy, and what was acknowledged
// must be. A store writes its log ahead in different ways with a journal and without one. The
// control is a file that nobody has synced.
func TestStoreSurvivesAPowerCut(t *testing.T) {
	badgerOnly(t, "the syncs of its log")
	t.Parallel()
	for name, options := range map[string][]string{"with a journal": nil, "without a journal": {"-O", "^has_journal"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image, mount := diskImage(t, 300, options...)
			var well atomic.Bool
			r := startReceiver(t, func(arrival) int { // nothing is delivered before
				if well.Load() {
					return http.StatusOK
				}
				return http.StatusServiceUnavailable
			})
			app := fmt.Sprintf("webhook app {\n url %s\n secret %s\n concurrency 32\n retry %s\n}", r.url, secret, strings.Repeat("1s ", 32))
			before := startRelay(t, relayOptions{app: app, store: filepath.Join(mount, "store")})
			l := newLoad(t)
			l.start(before, 16, false)
			eventually(t, time.Minute, "10,000 acknowledged events", func() bool { return l.acknowledgements() >= 10_000 })
			const unsynced = "unsynced"
			if err := os.WriteFile(filepath.Join(mount, unsynced), []byte(unsynced), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(before.process.PID(), syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			left := filepath.Join(t.TempDir(), "image")
			if out, err := exec.Command("cp", "--sparse=always", image, left).CombinedOutput(); err != nil {
				t.Fatalf("cp: %v: %s", err, out)
			}
			before.abandon()
			l.end() // what was acknowledged is what was answered before the relay stood still

			out, err := exec.Command("e2fsck", "-fy", left).CombinedOutput() // as at a boot
			var status *exec.ExitError
			if err != nil && (!errors.As(err, &status) || status.ExitCode() > 1) { // 1: it has repaired something
				t.Fatalf("e2fsck: %v: %s", err, out)
			}
			remains := t.TempDir()
			mountImage(t, left, remains)
			if text, err := os.ReadFile(filepath.Join(remains, unsynced)); err == nil && string(text) == unsynced {
				t.Fatal("a file that nobody has synced is on the disk: the power cut is none")
			}
			well.Store(true)
			startRelay(t, relayOptions{app: app, store: filepath.Join(remains, "store")})
			deliveredAll(t, r, l)
			t.Logf("%d acknowledged, all delivered", l.acknowledgements())
		})
	}
}
