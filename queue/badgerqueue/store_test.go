package badgerqueue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/userhero/relay/bench/text"
	"github.com/userhero/relay/queue"
)

func openAt(t testing.TB, o Options) *Store {
	t.Helper()
	return openBounded(t, o, defaultBounds.within(o.Memory))
}

// openSmall opens a store whose transactions hold an eighth of the usual.
func openSmall(t testing.TB, o Options) *Store {
	t.Helper()
	b := defaultBounds
	b.memtable /= 8
	return openBounded(t, o, b)
}

func openBounded(t testing.TB, o Options, b bounds) *Store {
	t.Helper()
	s, err := open(context.Background(), o, b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newWebhook(t testing.TB, s *Store, name string) queue.WebhookID {
	t.Helper()
	w, err := s.PutWebhook(context.Background(), queue.Webhook{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return w.ID
}

// entries counts what this process has made.
var entries atomic.Int64

// entry creates a feedback that no other entry creates, in no process.
func entry(n int, ws ...queue.WebhookID) queue.Entry {
	return queue.Entry{
		Type: "feedback.created", Feedback: queue.FeedbackID{Project: "proj", ID: fmt.Sprintf("fb_%d_%d", os.Getpid(), entries.Add(1))},
		Created: time.Now(), Body: fmt.Appendf(nil, `{"n":%d}`, n), Webhooks: ws,
	}
}

// noise returns bytes that cannot be packed, the same ones for the same seed.
func noise(seed, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{0: byte(seed), 1: byte(seed >> 8), 2: byte(seed >> 16), 3: byte(seed >> 24), 4: byte(seed >> 32)}).Read(b)
	return b
}

// kibibyte appends a document of 1 KiB with ordinary text.
func kibibyte(b []byte, n int) []byte {
	const head = `{"event":"feedback.created","timestamp":"2026-11-28T16:00:00Z","data":{"id":"fb_%016x","projectId":"proj_xyz","widgetId":"w_default","message":"`
	const tail = `","category":"bug","rating":%d,"status":"new","context":{"pageUrl":"/dashboard/reports","referrer":"/dashboard","browser":"Chrome",` +
		`"browserVersion":"142","os":"macOS","deviceType":"desktop","viewport":{"width":1920,"height":1080},"timezone":"America/New_York","locale":"en-US",` +
		`"country":"US"},"metadata":{"userId":"user_%06d"},"createdAt":"2026-11-28T16:00:00Z"}}`
	b = fmt.Appendf(b, head, mixed(n))
	end := fmt.Appendf(nil, tail, 1+n%5, n%1e6)
	return append(text.Append(b, uint64(n), 1024-len(b)-len(end)), end...)
}

// mixed maps the numbers of events to ids that are in no order.
func mixed(n int) uint64 { return uint64(n) * 0x9E3779B97F4A7C15 }

// TestReadersSeeWhatIsOnTheDisk: an event is not shown while its commit is still on
// its way to the disk, so whoever sees it finds it counted too.
func TestReadersSeeWhatIsOnTheDisk(t *testing.T) {
	t.Parallel()
	s := openAt(t, Options{Path: t.TempDir()})
	for n := range 100 {
		e := entry(n)
		done := make(chan error, 1)
		go func() {
			_, err := s.Enqueue(t.Context(), e)
			done <- err
		}()
		for {
			_, err := s.Latest(t.Context(), e.Feedback)
			if err == nil {
				break
			}
			if !errors.Is(err, queue.ErrNotFound) {
				t.Fatal(err)
			}
			<-time.After(50 * time.Microsecond)
		}
		if got := s.Stats(context.Background()).Events; got != int64(n)+1 {
			t.Errorf("event %d is shown, and %d are counted", n+1, got)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// BenchmarkEnqueue measures durable accepts; b.N events by 64 writers.
func BenchmarkEnqueue(b *testing.B) {
	for _, webhooks := range []int{0, 1, 5} {
		b.Run(fmt.Sprintf("webhooks=%d", webhooks), func(b *testing.B) {
			s := openAt(b, Options{Path: b.TempDir()})
			var ws []queue.WebhookID
			for i := range webhooks {
				ws = append(ws, newWebhook(b, s, fmt.Sprint(i)))
			}
			body := make([]byte, 1024)
			b.SetParallelism(32)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					e := entry(1, ws...)
					e.Body = body
					if _, err := s.Enqueue(context.Background(), e); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkDeliver measures events through a lane: accepted by 64 writers,
// leased, acknowledged.
func BenchmarkDeliver(b *testing.B) {
	s := openAt(b, Options{Path: b.TempDir()})
	w := newWebhook(b, s, "w")
	l, err := s.Lane(w, queue.LaneOptions{MaxInFlight: 64})
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for got := 0; got < b.N; {
			leases, err := l.Next(context.Background(), 64)
			if err != nil {
				b.Error(err)
				return
			}
			for _, lease := range leases {
				if err := lease.Ack(queue.Attempt{At: time.Now(), Status: 200, ResponseBody: []byte("ok")}); err != nil {
					b.Error(err)
				}
			}
			got += len(leases)
		}
	}()
	body := make([]byte, 1024)
	b.SetParallelism(32)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			e := entry(1, w)
			e.Body = body
			if _, err := s.Enqueue(context.Background(), e); err != nil {
				b.Error(err)
				return
			}
		}
	})
	<-done
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
