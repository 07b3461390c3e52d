package badgerqueue

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
)

// killedStore is the folder of a store whose process was killed after it had
// acknowledged n events, with all of them in the log of the memtable.
func killedStore(t *testing.T, n int) string {
	t.Helper()
	dir, left := t.TempDir(), t.TempDir()
	s := openAt(t, Options{Path: dir})
	for i := range n {
		enqueue(t, s, entry(i))
	}
	eventually(t, "the mark is written", func() bool {
		mark, err := readHighWater(dir)
		return err == nil && mark == uint64(n)
	})
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() == "LOCK" {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(left, e.Name()), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return left
}

// damage changes the store's one memtable log.
func damage(t *testing.T, dir string, change func([]byte) []byte) {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	if err != nil || len(logs) != 1 {
		t.Fatalf("logs %v, %v", logs, err)
	}
	b, err := os.ReadFile(logs[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(logs[0], change(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

// used is how much of a log holds anything.
func usedBytes(b []byte) int { return len(bytes.TrimRight(b, "\x00")) }

var damages = map[string]func([]byte) []byte{
	"a flipped bit": func(b []byte) []byte { b[usedBytes(b)/2] ^= 1; return b },
	"a cut":         func(b []byte) []byte { clear(b[usedBytes(b)/2:]); return b },
	"nothing left":  func(b []byte) []byte { clear(b[64:]); return b },
}

// TestDamageIsReportedAtTheStart: a log that ends early is not taken for a store
// that held less.
func TestDamageIsReportedAtTheStart(t *testing.T) {
	t.Parallel()
	for name, change := range damages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := killedStore(t, 200)
			damage(t, dir, change)
			s, err := Open(context.Background(), Options{Path: dir})
			if err == nil {
				_ = s.Close(context.Background())
				t.Fatal("the store opens as if nothing had happened")
			}
			if !errors.Is(err, errLost) || !strings.Contains(err.Error(), "number 200 had been acknowledged") {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

// TestWithoutTheMarkDamageIsSilent is the negative control: the same damage,
// with nobody to tell.
func TestWithoutTheMarkDamageIsSilent(t *testing.T) {
	t.Parallel()
	dir := killedStore(t, 200)
	damage(t, dir, damages["a flipped bit"])
	if err := os.Remove(filepath.Join(dir, highWaterFile)); err != nil {
		t.Fatal(err)
	}
	s := openAt(t, Options{Path: dir})
	if n := s.Stats().Events; n >= 200 || n == 0 {
		t.Errorf("%d of 200 events are left; the damage is not what the test above takes it for", n)
	}
}

// TestWholeStoreOpensAfterAKill: the mark is never ahead of what is on disk.
func TestWholeStoreOpensAfterAKill(t *testing.T) {
	t.Parallel()
	s := openAt(t, Options{Path: killedStore(t, 200)})
	if n := s.Stats().Events; n != 200 {
		t.Errorf("%d of 200 events are left", n)
	}
}

// TestDamagedRecordIsSteppedOverAndSaid: a record whose checksum is wrong is an
// error to who asks for it, and no obstacle to the others.
func TestDamagedRecordIsSteppedOverAndSaid(t *testing.T) {
	t.Parallel()
	s := openAt(t, Options{Path: t.TempDir()})
	w := newWebhook(t, s, "w")
	bad, good := enqueue(t, s, entry(1, w)), enqueue(t, s, entry(2, w))
	if err := s.commit(t.Context(), 1, 1024, func(b *batch) error {
		return b.set(eventKey(bad.ID.Seq()), []byte("\x01not a record"))
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Event(t.Context(), bad.ID); !errors.Is(err, errDamaged) {
		t.Errorf("a damaged event reads as %v", err)
	}
	l, err := s.Lane(w, queue.LaneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	leases, err := l.Next(ctx, 10)
	if err != nil || len(leases) != 1 || leases[0].Event.ID != good.ID {
		t.Errorf("the lane hands out %d, %v", len(leases), err)
	}
}
