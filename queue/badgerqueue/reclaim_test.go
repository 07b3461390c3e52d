package badgerqueue

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
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
	if s.disk.measure(); s.disk.used() < events*size {
		t.Fatalf("%d bytes hold %d events of %d bytes", s.disk.used(), events, size)
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
	eventually(t, "the events expire", func() bool { return s.Stats().Events == 0 })
	eventually(t, "the disk has its space back", func() bool { return s.Stats().DiskBytes < reclaimFrom+2*memTableSize })
	checkCounters(t, s)
}
