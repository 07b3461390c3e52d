package relay

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue/badgerqueue"
)

// BenchmarkAcceptToDelivered measures events from Accept to the receiver's 2xx,
// over real sockets and a real store: b.N events of 1 KiB, 64 at once, one
// signed webhook.
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
	q, err := badgerqueue.Open(context.Background(), badgerqueue.Options{Path: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	r := New(Options{Queue: q})
	if err := r.Start(context.Background()); err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := r.Stop(context.Background()); err != nil {
			b.Error(err)
		}
		if err := q.Close(context.Background()); err != nil {
			b.Error(err)
		}
	}()
	if _, err := r.Attach(Config{
		Webhooks: []WebhookConfig{{Name: "w", URL: receiver.URL, Secret: "secret", Concurrency: 64}},
		Egress:   Egress{Allow: []string{"127.0.0.1"}},
	}); err != nil {
		b.Fatal(err)
	}
	body := []byte(`{"message":"` + strings.Repeat("x", 1000) + `"}`)
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			for i := w; i < b.N; i += 64 {
				if _, err := r.Accept(context.Background(), Acceptance{Type: event.Created, FeedbackID: "fb", Body: body}); err != nil {
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
