package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// smallDisk mounts an ext4 file system of so many megabytes, and returns where.
func smallDisk(t *testing.T, megabytes int64) string {
	t.Helper()
	_, mount := diskImage(t, megabytes)
	return mount
}

// diskImage is smallDisk that also returns the file that holds the file system.
func diskImage(t *testing.T, megabytes int64) (image, mount string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, mkfs.ext4 and a loop device, to mount a small file system")
	}
	image, mount = filepath.Join(t.TempDir(), "image"), t.TempDir()
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, megabytes*1e6); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"mkfs.ext4", "-q", image}, {"mount", "-o", "loop", image, mount}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			if os.Getenv("CI") == "" {
				t.Skipf("needs mkfs.ext4 and a loop device, to mount a small file system: %v: %s", err, out)
			}
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", mount).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return image, mount
}

// fillUp writes a file until the disk has no byte left.
func fillUp(t *testing.T, mount string) (file string) {
	t.Helper()
	file = filepath.Join(mount, "somebody-else")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 1<<20)
	for size := len(block); size >= 512; {
		if _, err := f.Write(block[:size]); err != nil {
			size /= 2
		}
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	return file
}

// diskRounds is how often the disk fills in a test; in make soak, SOAK times 200.
func diskRounds() int {
	if n, _ := strconv.Atoi(os.Getenv("SOAK")); n > 0 {
		return 200 * n
	}
	return 10
}

// TestDiskThatFillsAndGetsRoom: under 16 clients the disk is filled to the last
// byte and gets room again, round after round. Every submission that was answered
// 202 is delivered. The process never dies, and SIGTERM while the disk is full
// ends it well.
func TestDiskThatFillsAndGetsRoom(t *testing.T) {
	badgerOnly(t, "a full disk under its folder")
	r := startReceiver(t, nil)
	s := startRelay(t, relayOptions{
		app:   fmt.Sprintf("webhook app {\n url %s\n secret %s\n concurrency 32\n}\nretention 10s", r.url, secret),
		store: filepath.Join(smallDisk(t, 600), "store"),
	})
	l := newLoad(t)
	l.pause = 10 * time.Millisecond
	l.start(s, 16, false)
	slowest := time.Duration(0)
	rounds := diskRounds()
	for round := range rounds {
		before := l.acknowledgements()
		eventually(t, 60*time.Second, "20 more acknowledged events", func() bool { return l.acknowledgements() >= before+20 })
		file := fillUp(t, filepath.Dir(s.store()))
		refused := l.refusals()
		eventually(t, 20*time.Second, "a full disk is noticed", func() bool { return l.refusals() > refused })
		if round%5 == 4 {
			start := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			err := s.process.Stop(ctx)
			cancel()
			if err != nil {
				t.Fatalf("round %d: SIGTERM on a full disk: %v", round, err)
			}
			slowest = max(slowest, time.Since(start))
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			s.start()
			continue
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	l.end()
	for _, refused := range l.refused {
		if !strings.HasPrefix(refused, "503 ") {
			t.Errorf("a submission was answered %s", refused)
		}
	}
	t.Logf("%d rounds: %d acknowledged, %d refused, %d cut off; the slowest SIGTERM took %v",
		rounds, l.acknowledgements(), len(l.refused), l.broken, slowest.Round(time.Millisecond))
	deliveredAll(t, r, l)
}

// deliveredAll waits until every acknowledged event has arrived.
func deliveredAll(t *testing.T, r *receiver, l *load) {
	t.Helper()
	arrived, seen := map[string]int{}, 0
	r.await(t, 60*time.Second, "every acknowledged event has arrived", func(all []arrival) bool {
		for id, n := range feedbackIDs(t, all[seen:]) {
			arrived[id] += n
		}
		seen = len(all)
		return l.missing(arrived) == 0
	})
}

// TestEventsThatAreLostAreMissed is the negative control: with the files of a
// moment ago in the store's place, what was acknowledged since is missing.
func TestEventsThatAreLostAreMissed(t *testing.T) {
	badgerOnly(t, "a folder that is put back to an earlier state")
	t.Parallel()
	address := freeAddress(t) // nobody listens yet
	s := startRelay(t, relayOptions{app: fmt.Sprintf("webhook app {\n url http://%s\n secret %s\n}", address, secret)})
	kept := filepath.Join(t.TempDir(), "kept")
	s.process.Kill()
	if out, err := exec.Command("cp", "-r", "--sparse=always", s.store(), kept).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s.start()
	l := newLoad(t)
	l.start(s, 1, false)
	eventually(t, 30*time.Second, "20 acknowledged events", func() bool { return l.acknowledgements() >= 20 })
	l.end()
	s.process.Kill()
	if err := errors.Join(os.RemoveAll(s.store()), os.Rename(kept, s.store())); err != nil {
		t.Fatal(err)
	}
	r := new(receiver)
	server := httptest.NewUnstartedServer(r)
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	_ = server.Listener.Close()
	server.Listener = listener
	server.Start()
	t.Cleanup(server.Close)
	s.start()
	last := s.mustSubmit("the last")
	r.await(t, 20*time.Second, "the last event has arrived", func(all []arrival) bool { return feedbackIDs(t, all)[last] > 0 })
	if got, want := l.missing(feedbackIDs(t, r.arrivals())), l.acknowledgements(); got != want {
		t.Errorf("%d events are missing, and %d were lost", got, want)
	}
}

// TestReloadMovesTheStoreFromAFullDisk: another path is what an operator gives a
// relay whose disk is full. The process lives, and takes events at once.
func TestReloadMovesTheStoreFromAFullDisk(t *testing.T) {
	badgerOnly(t, "its folder is moved")
	t.Parallel()
	mount := smallDisk(t, 160)
	r := startReceiver(t, nil)
	s := startRelay(t, relayOptions{
		app:   fmt.Sprintf("webhook app {\n url %s\n secret %s\n}", r.url, secret),
		store: filepath.Join(mount, "store"),
	})
	s.mustSubmit("before")
	fillUp(t, mount)
	s.options.store = ""
	if err := s.reload(s.caddyfile(s.options)); err != nil {
		t.Fatal(err)
	}
	id := s.mustSubmit("after")
	r.await(t, 20*time.Second, "the event has arrived", func(all []arrival) bool { return feedbackIDs(t, all)[id] > 0 })
}
