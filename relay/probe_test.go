package relay

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
)

// TestRedeliveryNeedsNotWaitForTheNextProbe: a person who repaired a receiver sees at
// once that it works.
func TestRedeliveryNeedsNotWaitForTheNextProbe(t *testing.T) {
	t.Parallel()
	for _, recover := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			rs := &receivers{answer: always(500)}
			r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, Config{Webhooks: []WebhookConfig{{Name: "a", URL: "http://a.example.com/", Retry: []time.Duration{3 * time.Minute}}}})
			defer stop()
			e := accept(t, r, "fb_1")
			time.Sleep(3*time.Minute + 30*time.Second)
			w, _ := r.Webhook("a")
			if w.State != Failing || len(rs.all()) != 2 {
				t.Fatalf("after its ladder the webhook is %s, with %d requests", w.State, len(rs.all()))
			}
			rs.mu.Lock()
			rs.answer = always(200)
			rs.mu.Unlock()
			var err error
			if recover {
				_, err = r.Recover(t.Context(), "a", Recovery{Failed: true}, "ada")
			} else {
				err = r.Redeliver(t.Context(), queue.DeliveryID{Event: e.ID, Webhook: w.ID}, "ada")
			}
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			if w, _ := r.Webhook("a"); w.State != Active || w.Counts.Delivered != 1 {
				t.Errorf("a second after the redelivery: %s, %+v", w.State, w.Counts)
			}
		})
	}
}
