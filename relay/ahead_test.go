package relay

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/userhero/relay/queue/memqueue"
)

// TestDeliveriesLeasedAheadGoOut: workers take them without run, at most as many at once as
// the webhook's concurrency. If the webhook is disabled or held, or the relay stops, none of
// them is sent, and all are later, once each.
func TestDeliveriesLeasedAheadGoOut(t *testing.T) {
	t.Parallel()
	const concurrency, events, takes = 4, 200, 10 * time.Millisecond
	for name, interrupt := range map[string]func(t *testing.T, r *Relay, hold func(bool)) (goOn func()){
		"disabled": func(t *testing.T, r *Relay, _ func(bool)) func() {
			if err := r.Disable(t.Context(), "w", "ada"); err != nil {
				t.Error(err)
			}
			return func() {
				if err := r.Enable(t.Context(), "w", "ada"); err != nil {
					t.Error(err)
				}
			}
		},
		"held": func(_ *testing.T, _ *Relay, hold func(bool)) func() {
			hold(true)
			return func() { hold(false) }
		},
		"stopped": func(t *testing.T, r *Relay, _ func(bool)) func() {
			if err := r.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				underWay, most, held := 0, 0, false
				times := make(map[string]int) // deliveries that the receiver has taken
				q, rs := memqueue.New(memqueue.Options{}), &receivers{}
				rs.answer = func(r request) (int, http.Header) {
					mu.Lock()
					underWay++
					most = max(most, underWay)
					mu.Unlock()
					time.Sleep(takes)
					mu.Lock()
					defer mu.Unlock()
					underWay--
					if held {
						return http.StatusTooManyRequests, http.Header{"Retry-After": {"30"}}
					}
					times[r.header["X-UserHero-Delivery"][0]]++
					return http.StatusOK, nil
				}
				config := Config{Webhooks: []WebhookConfig{{Name: "w", URL: "http://r.example/", Concurrency: concurrency}}}
				r, stop := startOn(t, q, rs, config)
				defer func() { stop() }()
				for i := range events {
					accept(t, r, fmt.Sprint("fb_", i))
				}
				time.Sleep(10*takes + takes/2)
				w, err := r.find("w")
				if err != nil {
					t.Fatal(err)
				}
				leasedAhead := func() int {
					w.mu.Lock()
					defer w.mu.Unlock()
					return len(w.ahead)
				}
				mu.Lock()
				before := len(times)
				mu.Unlock()
				if n := leasedAhead(); n == 0 || before < 9*concurrency {
					t.Fatalf("%d are leased ahead, %d delivered", n, before)
				}
				goOn := interrupt(t, r, func(is bool) {
					mu.Lock()
					defer mu.Unlock()
					held = is
				})
				time.Sleep(25 * time.Second)
				if n := len(rs.all()); n > before+concurrency {
					t.Errorf("%d requests, want at most those in flight after the first %d", n, before)
				}
				if n := leasedAhead(); n > 0 {
					t.Errorf("%d are still leased ahead", n)
				}
				if goOn != nil {
					goOn()
				} else {
					r, stop = startOn(t, q, rs, config)
				}
				time.Sleep(5 * time.Minute)
				mu.Lock()
				defer mu.Unlock()
				if len(times) != events || most > concurrency {
					t.Errorf("%d of %d are delivered, at most %d at once", len(times), events, most)
				}
				for id, n := range times {
					if n != 1 {
						t.Errorf("%s was delivered %d times", id, n)
					}
				}
				if w, _ := r.Webhook("w"); w.Counts.Delivered != events {
					t.Errorf("counted %+v", w.Counts)
				}
			})
		})
	}
}
