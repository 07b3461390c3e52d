package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/userhero/relay/bench/sink"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue"
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/deliver"
)

// BenchmarkTracedDelivery measures an event from its acceptance to the receiver's
// answer, over real sockets and a real store, without spans and with every span
// exported. user-µs/op is the processor time outside of the kernel. It includes that
// of the receiver and the collector.
func BenchmarkTracedDelivery(b *testing.B) {
	b.Run("untraced", func(b *testing.B) { benchmarkDelivery(b, nil) })
	b.Run("traced", func(b *testing.B) {
		collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
		}))
		defer collector.Close()
		b.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
		b.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", "1000000")
		tracing, err := NewTracing("bench", slog.New(slog.DiscardHandler))
		if err != nil {
			b.Fatal(err)
		}
		benchmarkDelivery(b, tracing.Tracer())
		if err := tracing.Shutdown(); err != nil {
			b.Error(err)
		}
		for reason, n := range tracing.Lost() {
			if n != 0 {
				b.Errorf("%d spans are lost: %s", n, reason)
			}
		}
	})
}

func benchmarkDelivery(b *testing.B, tracer trace.Tracer) {
	const clients = 64
	receiver, err := sink.Start(b.Context(), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer receiver.Close()
	store, err := badgerqueue.Open(b.Context(), badgerqueue.Options{Path: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	r := relay.New(relay.Options{Queue: store, Tracer: tracer})
	if err := r.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := errors.Join(r.Stop(context.Background()), store.Close(context.Background())); err != nil {
			b.Error(err)
		}
	}()
	if _, err := r.Attach(relay.Config{
		Webhooks: []relay.WebhookConfig{{Name: "w", URL: receiver.URLs(1)[0], Secret: "secret", Concurrency: clients}},
		Egress:   deliver.Egress{Allow: []string{"127.0.0.1"}},
	}); err != nil {
		b.Fatal(err)
	}
	body := []byte(`{"message":"` + strings.Repeat("x", 1000) + `"}`)
	b.ReportAllocs()
	b.ResetTimer()
	before := userTime(b)
	var all sync.WaitGroup
	for c := range clients {
		all.Go(func() {
			for i := c; i < b.N; i += clients {
				if _, err := r.Accept(b.Context(), queue.Entry{
					Type: string(event.Created), Feedback: queue.FeedbackID{ID: fmt.Sprint("fb_", i)}, Body: body,
				}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	if err := receiver.Await(b.Context(), uint64(b.N), time.Minute); err != nil {
		b.Error(err)
	}
	b.ReportMetric(float64((userTime(b)-before).Microseconds())/float64(b.N), "user-µs/op")
}

// userTime returns the processor time of this process outside of the kernel.
func userTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano())
}
