package relay

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/userhero/relay/bench/sink"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue"
	"github.com/userhero/relay/queue/memqueue"
	"github.com/userhero/relay/relay/deliver"
)

// BenchmarkAcceptToDelivered measures events from Accept to the receiver's 2xx over
// real sockets and a real store: b.N events of 1 KiB, 64 at a time, one signed webhook.
func BenchmarkAcceptToDelivered(b *testing.B) {
	var got atomic.Int64
	all := make(chan struct{})
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if got.Add(1) == int64(b.N) {
			close(all)
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	defer receiver.Close()
	r := storedRelay(b, WebhookConfig{Name: "w", URL: receiver.URL, Secret: "secret", Concurrency: 64})
	body := []byte(`{"message":"` + strings.Repeat("x", 1000) + `"}`)
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			for i := w; i < b.N; i += 64 {
				if _, err := r.Accept(context.Background(), queue.Entry{Type: string(event.Created), Feedback: queue.FeedbackID{ID: fmt.Sprint("fb_", i)}, Body: body}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	<-all
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// storedRelay starts a relay with a real store. Both end with the benchmark.
func storedRelay(b *testing.B, webhooks ...WebhookConfig) *Relay {
	b.Helper()
	q, err := badgerqueue.Open(context.Background(), badgerqueue.Options{Path: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	r := New(Options{Queue: q})
	if err := r.Start(context.Background()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := errors.Join(r.Stop(context.Background()), q.Close(context.Background())); err != nil {
			b.Error(err)
		}
	})
	if _, err := r.Attach(Config{Webhooks: webhooks, Egress: deliver.Egress{Allow: []string{"127.0.0.1"}}}); err != nil {
		b.Fatal(err)
	}
	return r
}

// BenchmarkWide measures the deliveries of events that go to 1,000 webhooks each, over real
// sockets and a real store: b.N deliveries, rounded up to whole events, which are accepted
// one after another. cpu-µs/op includes the receiver's part.
func BenchmarkWide(b *testing.B) {
	const webhooks = 1000
	receiver, err := sink.Start(b.Context(), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer receiver.Close()
	var all []WebhookConfig
	for i, url := range receiver.URLs(webhooks) {
		all = append(all, WebhookConfig{Name: fmt.Sprint("w", i), URL: url, Secret: "secret", Concurrency: 8})
	}
	r := storedRelay(b, all...)
	body := []byte(`{"message":"` + strings.Repeat("x", 1000) + `"}`)
	accept := func(i int) {
		if _, err := r.Accept(context.Background(), queue.Entry{Type: string(event.Created), Feedback: queue.FeedbackID{ID: fmt.Sprint("fb_", i)}, Body: body}); err != nil {
			b.Fatal(err)
		}
	}
	accept(0) // opens the connections
	if err := receiver.Await(b.Context(), webhooks, time.Minute); err != nil {
		b.Fatal(err)
	}
	events := (b.N + webhooks - 1) / webhooks
	before := cpuTime(b)
	b.ResetTimer()
	for i := range events {
		accept(i + 1)
	}
	if err := receiver.Await(b.Context(), uint64((events+1)*webhooks), time.Minute); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(events*webhooks), "cpu-µs/op")
}

// BenchmarkDeliver measures a delivery from its lease to its settlement over a real
// socket, one after another. user-µs/op is the CPU time outside the kernel, including
// the receiver's.
func BenchmarkDeliver(b *testing.B) {
	b.Run("untraced", func(b *testing.B) { benchmarkDeliver(b, nil) })
	b.Run("traced", func(b *testing.B) { benchmarkDeliver(b, blank{}) })
}

func benchmarkDeliver(b *testing.B, tracer trace.Tracer) {
	receiver, err := sink.Start(b.Context(), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer receiver.Close()
	r := New(Options{Queue: memqueue.New(memqueue.Options{}), Tracer: tracer})
	if _, err := r.Attach(Config{
		Webhooks: []WebhookConfig{{Name: "w", URL: receiver.URLs(1)[0], Secret: "secret", Concurrency: 1}},
		Egress:   deliver.Egress{Allow: []string{"127.0.0.1"}},
	}); err != nil {
		b.Fatal(err)
	}
	w, err := r.find("w")
	if err != nil {
		b.Fatal(err)
	}
	id := queue.NewEventID(time.Now(), 1, 1)
	body := []byte(`{"message":"` + strings.Repeat("x", 1000) + `"}`)
	t := task{target: w.currentTarget(), attempts: w.attempts}
	b.ReportAllocs()
	b.ResetTimer()
	before := userTime(b)
	for range b.N {
		w.underWay++
		t.lease = queue.NewLease(
			queue.Delivery{ID: queue.DeliveryID{Event: id, Webhook: w.id}, Type: string(event.Created), Created: time.Now()},
			queue.Event{ID: id, Type: string(event.Created), Body: body}, settled{})
		w.deliver(t)
	}
	b.ReportMetric(float64((userTime(b)-before).Microseconds())/float64(b.N), "user-µs/op")
	if err := receiver.Await(b.Context(), uint64(b.N), 10*time.Second); err != nil { // the receiver counts after it answers
		b.Error(err)
	}
}

// settled is a queue that accepts every settlement.
type settled struct{}

func (settled) Lost(*queue.Lease) bool { return false }

func (settled) Settle(*queue.Lease, queue.Settlement) error { return nil }

// cpuTime returns the CPU time of this process.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// userTime returns the CPU time of this process outside the kernel.
func userTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano())
}

// blank makes spans that accept all data and record nothing. The benchmark then
// measures only what it costs to produce the data.
type blank struct{ noop.Tracer }

func (blank) Start(ctx context.Context, _ string, _ ...trace.SpanStartOption) (context.Context, trace.Span) {
	return ctx, blankSpan{}
}

type blankSpan struct{ noop.Span }

func (blankSpan) IsRecording() bool { return true }
