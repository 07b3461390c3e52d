package e2e

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
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
