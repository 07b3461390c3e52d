package badgerqueue

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
)

// BenchmarkBacklog measures picking one due delivery while n others wait, fresh
// ones and retries in turns: ns/pick; ns/op is picking and settling. disk-B/event is what
// the store's files take for each that waits. Its sizes are
// those of BACKLOG, "1000 100000" by default. What else a backlog costs is measured
// on the built Caddy, by the bench.
func BenchmarkBacklog(b *testing.B) {
	sizes := os.Getenv("BACKLOG")
	if sizes == "" {
		sizes = "1000 100000"
	}
	for _, size := range strings.Fields(sizes) {
		n, err := strconv.Atoi(size)
		if err != nil {
			b.Fatal(err)
		}
		dir := b.TempDir()
		s := openAt(b, Options{Path: dir})
		w := newWebhook(b, s, "w")
		pile(b, s, w, n)
		s.disk.Measure()
		used := s.disk.Used()
		if err := s.Close(context.Background()); err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("waiting=%d", n), func(b *testing.B) {
			benchmarkBacklog(b, dir, w)
			b.ReportMetric(float64(used)/float64(n), "disk-B/event")
		})
	}
}

func benchmarkBacklog(b *testing.B, dir string, w queue.WebhookID) {
	s := openAt(b, Options{Path: dir})
	b.ResetTimer()
	picks := pick(b, s, w, b.N)
	b.StopTimer()
	var picking time.Duration
	for _, took := range picks {
		picking += took
	}
	b.ReportMetric(float64(picking)/float64(b.N), "ns/pick")
}

// pile has n events of 1 KiB of ordinary text wait for a webhook.
func pile(t testing.TB, s *Store, w queue.WebhookID, n int) {
	t.Helper()
	var wg sync.WaitGroup
	for g := range 64 {
		wg.Go(func() {
			for i := g; i < n; i += 64 {
				e := entry(i, w)
				e.Body = kibibyte(nil, i)
				if _, err := s.Enqueue(context.Background(), e); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// pick leases n deliveries one after the other, each of which is to be attempted
// again at once, and returns how long each took to get.
func pick(t testing.TB, s *Store, w queue.WebhookID, n int) []time.Duration {
	t.Helper()
	l, err := s.Lane(w, queue.LaneOptions{MaxInFlight: 8})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	took := make([]time.Duration, 0, n)
	for range n {
		start := time.Now()
		leases, err := l.Next(context.Background(), 1)
		if err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(start))
		if err := leases[0].Retry(time.Now(), queue.Attempt{At: time.Now(), Status: 500}); err != nil {
			t.Fatal(err)
		}
	}
	return took
}

// TestPickingCostsTheSameHoweverManyWait: a lane that read everything that waits
// for each of its windows, rather than on from the last one, would take many times
// as long here.
func TestPickingCostsTheSameHoweverManyWait(t *testing.T) {
	const few, many, picks, rounds = 1000, 20000, 500, 5
	narrow := defaultBounds
	narrow.window = 32 // so that there are many
	fastest := func(n int) (best time.Duration) {
		s, err := open(context.Background(), Options{Path: t.TempDir()}, narrow)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close(context.Background()) }()
		w := newWebhook(t, s, "w")
		pile(t, s, w, n)
		for range rounds { // the store is still busy with what was piled up
			var sum time.Duration
			for _, took := range pick(t, s, w, picks) {
				sum += took
			}
			if best == 0 || sum < best {
				best = sum
			}
		}
		return best
	}
	if a, b := fastest(few), fastest(many); b > 5*a {
		t.Errorf("%d picks take %s with %d waiting and %s with %d", picks, a, few, b, many)
	} else {
		t.Logf("%d picks take %s with %d waiting and %s with %d", picks, a, few, b, many)
	}
}
