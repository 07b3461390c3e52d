package badgerqueue

import (
	"context"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/badgercompat"
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// TestSpaceComesBackAfterADrain: when all that waited was delivered and has
// expired, the disk holds no more than is not worth a rewrite. Badger alone keeps
// most of it: the data at the bottom of its tree and the tombstones in memory.
func TestSpaceComesBackAfterADrain(t *testing.T) {
	t.Parallel()
	const events, size, writers = 6000, 16 << 10, 16
	often := defaultBounds
	often.reclaim = time.Second // where the machine is busy, the drain has lulls
	s, err := open(t.Context(), Options{Path: t.TempDir(), Retention: 2 * time.Second}, often)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	w := newWebhook(t, s, "w")
	body := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{}).Read(body)
	var wg sync.WaitGroup
	for g := range writers {
		wg.Go(func() {
			for i := g; i < events; i += writers {
				e := entry(i, w)
				e.Body = body
				if _, err := s.Enqueue(context.Background(), e); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if s.disk.Measure(); s.disk.Used() < events*size {
		t.Fatalf("%d bytes hold %d events of %d bytes", s.disk.Used(), events, size)
	}
	l, err := s.Lane(w, queue.LaneOptions{MaxInFlight: 256})
	if err != nil {
		t.Fatal(err)
	}
	for left := events; left > 0; {
		leases, err := l.Next(context.Background(), 256)
		if err != nil {
			t.Fatal(err)
		}
		for _, lease := range leases {
			if err := lease.Ack(queue.Attempt{At: time.Now(), Status: 200}); err != nil {
				t.Fatal(err)
			}
			left--
		}
	}
	eventually(t, "the events expire", func() bool { return s.Stats(context.Background()).Events == 0 })
	eventually(t, "the disk has its space back", func() bool { return s.Stats(context.Background()).DiskBytes < reclaimFrom+2*badgercompat.MemTableSize })
	checkCounters(t, s)
}

// TestTablesOfAMergeAreNotTakenForEvents: what a merge has on disk beside the tables
// that the tree has holds no event, also while the looks after a rewrite go on.
func TestTablesOfAMergeAreNotTakenForEvents(t *testing.T) {
	t.Parallel()
	const most, merging = 8 << 20, 32 << 20
	s := openAt(t, Options{Path: t.TempDir()})
	enqueue(t, s, entry(1))
	s.disk.SetMax(most)
	r := reclaimer{s: s, resting: restLooks, least: math.MaxInt64}
	look := func() int64 {
		t.Helper()
		s.disk.Measure()
		if err := r.measure(t.Context()); err != nil {
			t.Fatal(err)
		}
		return r.excess()
	}
	table := make([]byte, merging)
	_, _ = rand.NewChaCha8([32]byte{}).Read(table)
	if err := os.WriteFile(filepath.Join(s.o.Path, storefile.TableName(1<<20)), table, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 * restLooks {
		if n := look(); n > 0 {
			t.Fatalf("%d bytes of events are to go; none is too many", n)
		}
	}
	// The same bytes in use are too many: the bound is at work.
	s.disk.SetMax(1)
	if look() == 0 {
		t.Error("nothing is to go of a store above max_disk")
	}
}

// TestEventsOfAnOlderBuildAreMeasuredAfterARewrite: until the files have been rewritten
// no event goes early, because nobody knows what of them is live.
func TestEventsOfAnOlderBuildAreMeasuredAfterARewrite(t *testing.T) {
	t.Parallel()
	s := openAt(t, Options{Path: t.TempDir(), MaxDisk: 1 << 40})
	enqueue(t, s, entry(1))
	err := s.commit(t.Context(), 2, 256, func(b *batch) error {
		b.stateOf.Live, b.stateOf.Counted = 0, false
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s.disk.SetMax(1)
	r := reclaimer{s: s}
	if n := r.excess(); n != 0 {
		t.Fatalf("%d bytes of events are to go, and nobody knows how many are live", n)
	}
	s.disk.Measure()
	r.resting, r.least = restLooks, math.MaxInt64
	for range restLooks {
		if err := r.measure(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n, all := r.excess(), r.files(); n <= 0 || n > all {
		t.Errorf("%d bytes of events are to go of files of %d", n, all)
	}
}

// TestMemoryOfMergesGoesBackInALull: soon after a merge, when little is written, and
// not more often than it makes sense.
func TestMemoryOfMergesGoesBackInALull(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, c := range map[string]struct {
		ended, freed time.Time
		rate         float64
		want         bool
	}{
		"in a lull":      {ended: now, want: true},
		"under load":     {ended: now, rate: 2 * reclaimRate},
		"long after":     {ended: now.Add(-2 * memoryKept)},
		"just done":      {ended: now, freed: now},
		"done a while":   {ended: now, freed: now.Add(-2 * memoryEvery), want: true},
		"nothing merged": {ended: time.Unix(0, 0)},
	} {
		r := reclaimer{rate: c.rate, freed: c.freed}
		r.freeMemory(c.ended)
		if got := r.freed != c.freed; got != c.want {
			t.Errorf("%s: given back: %t, want %t", name, got, c.want)
		}
	}
}
