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

// BenchmarkBacklog measures what a backlog costs: picking and settling one due
// delivery while n others wait behind it, the process's anonymous memory, and
// the disk per waiting event. Its sizes are those of BACKLOG, "1000 100000" by
// default.
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
		b.Run(fmt.Sprintf("waiting=%d", n), func(b *testing.B) { benchmarkBacklog(b, n) })
	}
}

func benchmarkBacklog(b *testing.B, n int) {
	ctx := context.Background()
	dir := b.TempDir()
	s := openAt(b, Options{Path: dir})
	w := newWebhook(b, s, "w")
	body := []byte(`{"pad":"` + strings.Repeat("feedback text that compresses as prose does; ", 22) + `"}`)
	var wg sync.WaitGroup
	for g := range 64 {
		wg.Go(func() {
			for i := g; i < n; i += 64 {
				e := entry(i, w)
				e.Body = append([]byte(fmt.Sprintf(`{"n":%d}`, i)), body...)
				if _, err := s.Enqueue(ctx, e); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	s.disk.measure()
	b.ReportMetric(float64(s.disk.used())/float64(n), "disk-B/event")
	if err := s.Close(ctx); err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	s = openAt(b, Options{Path: dir})
	b.ReportMetric(time.Since(start).Seconds(), "open-s")
	l, err := s.Lane(w, queue.LaneOptions{MaxInFlight: 8})
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for range b.N {
		leases, err := l.Next(ctx, 1)
		if err != nil {
			b.Fatal(err)
		}
		if err := leases[0].Retry(time.Now(), queue.Attempt{At: time.Now(), Status: 500}); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	b.ReportMetric(anonymousMiB(b), "RssAnon-MiB")
}

// anonymousMiB reads the process's anonymous memory from /proc.
func anonymousMiB(b *testing.B) float64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(v)[0], 64)
			if err != nil {
				b.Fatal(err)
			}
			return kib / 1024
		}
	}
	return 0
}
