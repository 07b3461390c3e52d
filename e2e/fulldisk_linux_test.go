package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/userhero/relay/e2e/natsproc"
)

// startClusterOnASmallDisk is startCluster, with the first server's folder on a disk of its
// own. The first relay's app has further options.
func startClusterOnASmallDisk(t *testing.T, megabytes int64, answer func(arrival) int, app string) (c *relayCluster, disk string) {
	t.Helper()
	disk = smallDisk(t, megabytes)
	c = newCluster(t)
	c.receiver.answer = answer
	c.servers = startNATS(t, 3, natsproc.Options{Stores: map[string]string{"n1": filepath.Join(disk, "n1")}})
	for range 2 {
		c.relays = append(c.relays, startRelay(t, relayOptions{app: c.webhooks() + app, nats: c.servers}))
	}
	return c, disk
}

// TestClusterRefusesBeforeADiskIsFull: with max_disk below what the smallest disk has, events
// that cannot be delivered are refused while that disk still has room, and taken again when
// deliveries have ended.
func TestClusterRefusesBeforeADiskIsFull(t *testing.T) {
	t.Parallel()
	var well atomic.Bool
	answer := func(arrival) int {
		if well.Load() {
			return http.StatusOK
		}
		return http.StatusServiceUnavailable
	}
	c, disk := startClusterOnASmallDisk(t, 400, answer, "retry 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s\nmax_disk 20MiB\n")
	var accepted []string
	body := fmt.Sprintf(`{"message":%q}`, strings.Repeat("x", 60_000))
	eventually(t, 2*time.Minute, "a submission is refused", func() bool {
		response, text, err := c.relays[0].submit([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		switch response.StatusCode {
		case http.StatusAccepted:
			accepted = append(accepted, string(text))
			return false
		case http.StatusServiceUnavailable:
			if response.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			return true
		}
		t.Fatalf("%s: %s", response.Status, text)
		return false
	})
	var fs syscall.Statfs_t
	if err := syscall.Statfs(disk, &fs); err != nil {
		t.Fatal(err)
	}
	if free := float64(fs.Bavail) / float64(fs.Blocks); free < 0.5 {
		t.Errorf("%.0f %% of the disk are free when the first submission is refused", 100*free)
	}
	if len(accepted) < 100 {
		t.Errorf("only %d submissions of 60 kB fit into 20 MiB", len(accepted))
	}
	well.Store(true)
	c.receiver.await(t, time.Minute, "all are delivered", func(all []arrival) bool {
		delivered := map[string]bool{}
		for _, a := range all {
			if a.answered.After(a.at) && well.Load() {
				delivered[a.delivery] = true
			}
		}
		return len(delivered) >= 4*len(accepted)
	})
	eventually(t, time.Minute, "submissions are taken again", func() bool {
		response, _, err := c.relays[1].submit([]byte(`{"message":"there is room again"}`))
		return err == nil && response.StatusCode == http.StatusAccepted
	})
}

// TestClusterSurvivesAFullDisk: another program fills the disk of one server to the last byte,
// under load. The others go on, and the server comes back when it has room and is restarted.
func TestClusterSurvivesAFullDisk(t *testing.T) {
	t.Parallel()
	c, disk := startClusterOnASmallDisk(t, 200, nil, "")
	c.submitting(c.relays...)
	c.progress()
	file := fillUp(t, disk)
	c.progress()
	eventually(t, time.Minute, "the server notices", func() bool {
		log := c.servers[0].Log()
		return strings.Contains(log, "DISABLED") || strings.Contains(log, "no space left")
	})
	c.progress()
	c.healthy()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := c.servers[0].Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ending, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := c.servers[0].Ended(ending); err != nil {
		t.Fatal(err)
	}
	c.startServer(0)
	// It counts again: with it, another one may go.
	c.caughtUp()
	c.killServer(1)
	c.progress()
	c.keepsAll()
}

// caughtUp waits until each server has everything that the others have.
func (c *relayCluster) caughtUp() {
	c.t.Helper()
	for _, s := range c.servers {
		var err error
		for giveUp := time.Now().Add(4 * time.Minute); time.Now().Before(giveUp); time.Sleep(50 * time.Millisecond) {
			if err = s.HasAll("userhero"); err == nil {
				break
			}
		}
		if err != nil {
			c.t.Fatalf("%s has not everything after 4 minutes: %v", s.Name, err)
		}
	}
}
