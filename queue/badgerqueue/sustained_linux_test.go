package badgerqueue

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/userhero/relay/queue"
)

// BenchmarkSustained has 64 writers accept b.N events of 1 KiB, each with a
// feedback of its own, and one lane deliver them: with some hundred thousands it
// shows what an event costs on its way down the tree too. It needs a folder for
// temporary files that is on a disk.
func BenchmarkSustained(b *testing.B) {
	random := noise(1, 1024)
	for name, body := range map[string]func(n int) []byte{
		"text":  func(n int) []byte { return kibibyte(nil, n) },
		"noise": func(int) []byte { return random },
	} {
		b.Run(name, func(b *testing.B) { sustained(b, body) })
	}
}

func sustained(b *testing.B, body func(n int) []byte) {
	s := openAt(b, Options{Path: b.TempDir()})
	w := newWebhook(b, s, "w")
	l, err := s.Lane(w, queue.LaneOptions{MaxInFlight: 64})
	if err != nil {
		b.Fatal(err)
	}
	before := usedByProcess(b)
	b.ResetTimer()
	var next atomic.Int64
	var running sync.WaitGroup
	for range 64 {
		running.Go(func() {
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				e := entry(int(n), w)
				e.Feedback.ID = fmt.Sprintf("fb_%016x", mixed(int(n)))
				e.Body = body(int(n))
				if _, err := s.Enqueue(context.Background(), e); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	for left := b.N; left > 0 && !b.Failed(); {
		leases, err := l.Next(context.Background(), 64)
		if err != nil {
			b.Fatal(err)
		}
		for _, lease := range leases {
			if err := lease.Ack(queue.Attempt{At: time.Now(), Status: 200, ResponseBody: []byte("ok")}); err != nil {
				b.Fatal(err)
			}
		}
		left -= len(leases)
	}
	running.Wait()
	after := usedByProcess(b)
	b.ReportMetric(float64(after.cpu-before.cpu)/float64(b.N)/1e3, "cpu-µs/op")
	b.ReportMetric(float64(after.written-before.written)/float64(b.N), "written-B/op")
}

// BenchmarkWide has one event after another accepted for 1,000 webhooks, and delivered.
func BenchmarkWide(b *testing.B) {
	const wide = 1000
	s := openAt(b, Options{Path: b.TempDir()})
	lanes := make([]queue.Lane, wide)
	ids := make([]queue.WebhookID, wide)
	for i := range ids {
		ids[i] = newWebhook(b, s, fmt.Sprint("w", i))
		lane, err := s.Lane(ids[i], queue.LaneOptions{})
		if err != nil {
			b.Fatal(err)
		}
		lanes[i] = lane
	}
	before := usedByProcess(b)
	attempt := usual(usualID)
	attempt.RequestBody = nil
	n := 0
	for b.Loop() {
		n++
		e := entry(n, ids...)
		e.Body = kibibyte(nil, n)
		if _, err := s.Enqueue(context.Background(), e); err != nil {
			b.Fatal(err)
		}
		for _, lane := range lanes {
			leases, err := lane.Next(context.Background(), 1)
			if err != nil {
				b.Fatal(err)
			}
			if err := leases[0].Ack(attempt); err != nil {
				b.Fatal(err)
			}
		}
	}
	after := usedByProcess(b)
	b.ReportMetric(float64(after.cpu-before.cpu)/float64(n*wide)/1e3, "cpu-µs/delivery")
	b.ReportMetric(float64(after.written-before.written)/float64(n), "written-B/op")
}

type used struct{ cpu, written int64 } // nanoseconds; bytes, to the disk

func usedByProcess(b *testing.B) (u used) {
	b.Helper()
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	u.cpu = r.Utime.Nano() + r.Stime.Nano()
	io, err := os.ReadFile("/proc/self/io")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(io)) {
		_, _ = fmt.Sscanf(line, "write_bytes: %d", &u.written)
	}
	return u
}
