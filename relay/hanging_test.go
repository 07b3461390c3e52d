package relay

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
)

// TestThousandHangingReceiversDelayNobody: beside a thousand webhooks whose
// receivers take the request and say nothing, the healthy one's p99 from
// acceptance to arrival stays low, and in the end no goroutine is left.
// RELAY_HANGING sets another number; `make soak` runs ten thousand.
func TestThousandHangingReceiversDelayNobody(t *testing.T) {
	hanging, events, limit := 1000, 300, 100*time.Millisecond
	if s := os.Getenv("RELAY_HANGING"); s != "" {
		var err error
		if hanging, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	silent := newRawReceiver(t, say(""))
	var mu sync.Mutex
	arrived := make(map[string]time.Time)
	all := make(chan struct{})
	healthy := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if arrived[r.Header.Get("X-UserHero-Delivery")] = time.Now(); len(arrived) == events {
			close(all)
		}
	}))
	defer healthy.Close()
	c := Config{Egress: Egress{Allow: []string{"127.0.0.1"}}, Webhooks: []WebhookConfig{{Name: "healthy", URL: healthy.URL}}}
	for i := range hanging {
		c.Webhooks = append(c.Webhooks, WebhookConfig{Name: fmt.Sprintf("hanging-%d", i), URL: silent.url, Events: []event.Type{event.Created}, Timeout: 2 * time.Minute})
	}
	r := New(Options{Queue: memqueue.New(memqueue.Options{})})
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Attach(c); err != nil {
		t.Fatal(err)
	}
	accept(t, r, "fb_first")
	for end := time.Now().Add(time.Minute); int(silent.connections.Load()) < hanging; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d of %d receivers hang", silent.connections.Load(), hanging)
		}
	}
	w, _ := r.Webhook("healthy")
	submitted := make(map[string]time.Time)
	pace := time.NewTicker(5 * time.Millisecond)
	defer pace.Stop()
	for range events - 1 { // one has arrived
		<-pace.C
		at := time.Now()
		receipt, err := r.Accept(t.Context(), Acceptance{Type: event.Updated, FeedbackID: "fb", Body: []byte(`{}`)})
		if err != nil {
			t.Fatal(err)
		}
		submitted[queue.DeliveryID{Event: receipt.Event.ID, Webhook: w.ID}.String()] = at
	}
	select {
	case <-all:
	case <-time.After(30 * time.Second):
		t.Fatal("not every event has arrived")
	}
	var took []time.Duration
	for delivery, at := range submitted {
		took = append(took, arrived[delivery].Sub(at))
	}
	slices.Sort(took)
	p99 := took[len(took)*99/100]
	t.Logf("beside %d hanging receivers: p50 %s, p99 %s", hanging, took[len(took)/2], p99)
	if p99 > limit {
		t.Errorf("p99 %s, want at most %s", p99, limit)
	}
	stopping, cancel := context.WithTimeout(t.Context(), time.Millisecond) // they are cut off
	defer cancel()
	if err := r.Stop(stopping); err == nil {
		t.Error("nothing was under way: the receivers did not hang")
	}
	healthy.CloseClientConnections()
	awaitNoAttempts(t)
}
