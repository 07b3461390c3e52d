package relay

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
)

// slowQueue requeues slowly, so that each delivery is sent before the next is requeued.
type slowQueue struct{ queue.Queue }

func (q slowQueue) Requeue(ctx context.Context, id queue.DeliveryID, at time.Time) error {
	time.Sleep(time.Second)
	return q.Queue.Requeue(ctx, id, at)
}

// TestRecoveryKeepsOrder: the missed and failed events of an ordered webhook go out
// oldest first, each creation before its updates.
func TestRecoveryKeepsOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		healthy := false
		var mu sync.Mutex
		rs := &receivers{answer: func(request) (int, http.Header) {
			mu.Lock()
			defer mu.Unlock()
			if healthy {
				return http.StatusOK, nil
			}
			return http.StatusInternalServerError, nil
		}}
		r, stop := startOn(t, slowQueue{memqueue.New(memqueue.Options{})}, rs, Config{
			Webhooks: []WebhookConfig{{Name: "w", URL: "https://r.example/", Retry: []time.Duration{}, Ordered: true}},
		})
		defer stop()
		began := time.Now()
		take := func(typ event.Type, id string, step int, before queue.EventID) queue.EventID {
			t.Helper()
			receipt, err := r.Accept(t.Context(), queue.Entry{
				Type: string(typ), Feedback: queue.FeedbackID{ID: id}, Replaces: before, Body: fmt.Appendf(nil, `{"event":%q,"data":{"id":%q,"step":%d}}`, typ, id, step),
			})
			if err != nil {
				t.Fatal(err)
			}
			return receipt.Event.ID
		}
		latest := make(map[string]queue.EventID)
		// Some deliveries fail, some events are missed.
		for step := range 4 {
			if step == 2 {
				if err := r.Disable(t.Context(), "w", "ada"); err != nil {
					t.Fatal(err)
				}
			}
			for i := range 5 {
				id, typ := fmt.Sprintf("fb_%d", i), event.Updated
				if step == 0 {
					typ = event.Created
				}
				latest[id] = take(typ, id, step, latest[id])
				time.Sleep(10 * time.Minute) // a failing webhook is probed
			}
		}
		mu.Lock()
		healthy = true
		mu.Unlock()
		sent := len(rs.all())
		if err := r.Enable(t.Context(), "w", "ada"); err != nil {
			t.Fatal(err)
		}
		what := Recovery{Failed: true, Missed: true, Since: began, DryRun: true}
		counted, err := r.Recover(t.Context(), "w", what, "ada")
		if err != nil {
			t.Fatal(err)
		}
		what.DryRun = false
		count, err := r.Recover(t.Context(), "w", what, "ada")
		if err != nil || count != counted || count != 20 {
			t.Errorf("%d recovered, %d counted before, want 20: %v", count, counted, err)
		}
		time.Sleep(time.Hour)
		steps := make(map[string]string)
		for _, s := range rs.all()[sent:] {
			i := strings.Index(s.body, `"id":"`) + len(`"id":"`)
			id := s.body[i : i+4]
			steps[id] += s.body[len(s.body)-3 : len(s.body)-2]
		}
		for id, order := range steps {
			if order != "0123" {
				t.Errorf("%s arrived in the order %s", id, order)
			}
		}
		if len(steps) != 5 {
			t.Errorf("%d feedbacks arrived", len(steps))
		}
		if again, err := r.Recover(t.Context(), "w", what, "ada"); err != nil || again != 0 {
			t.Errorf("%d recovered again: %v", again, err)
		}
	})
}

// TestRecoveryOfManyComesInStretches: recovered deliveries go out oldest first, each
// once.
func TestRecoveryOfManyComesInStretches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const all = 2500
		rs := &receivers{answer: always(http.StatusOK)}
		r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, Config{
			Webhooks: []WebhookConfig{{Name: "w", URL: "https://r.example/", Ordered: true}},
		})
		defer stop()
		if err := r.Disable(t.Context(), "w", "ada"); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for i := range all {
			accept(t, r, fmt.Sprintf("fb_%04d", i))
		}
		if err := r.Enable(t.Context(), "w", "ada"); err != nil {
			t.Fatal(err)
		}
		count, err := r.Recover(t.Context(), "w", Recovery{Missed: true, Since: began, atOnce: 300}, "ada")
		if err != nil || count != all {
			t.Fatalf("%d recovered: %v", count, err)
		}
		time.Sleep(time.Hour)
		times := make(map[string]int)
		for _, s := range rs.all() {
			times[s.body]++
		}
		if len(times) != all || len(rs.all()) != all {
			t.Errorf("%d events arrived, in %d requests", len(times), len(rs.all()))
		}
		if first := rs.all()[0].body; !strings.Contains(first, "fb_0000") {
			t.Errorf("the first that arrived is %s", first)
		}
	})
}

// TestWhatWaitedGoesOutGently: after a webhook is enabled or recovered, it gets one
// request at first, and more only after it answers.
func TestWhatWaitedGoesOutGently(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"enable", "recover"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				healthy := false
				var mu sync.Mutex
				var underWay int
				var seen []int // attempts in flight when each request began
				rs := &receivers{answer: func(request) (int, http.Header) {
					mu.Lock()
					defer mu.Unlock()
					if !healthy {
						return http.StatusInternalServerError, nil
					}
					underWay++
					seen = append(seen, underWay)
					mu.Unlock()
					time.Sleep(time.Second)
					mu.Lock()
					underWay--
					return http.StatusOK, nil
				}}
				ladder := []time.Duration{} // every delivery fails at its first attempt
				if how == "enable" {
					ladder = []time.Duration{time.Hour} // every delivery waits
				}
				r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, Config{
					Webhooks: []WebhookConfig{{Name: "w", URL: "https://r.example/", Retry: ladder, Concurrency: 8}},
				})
				defer stop()
				for i := range 40 {
					accept(t, r, fmt.Sprintf("fb_%d", i))
				}
				time.Sleep(24 * time.Hour)
				if err := r.Disable(t.Context(), "w", "ada"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Hour)
				mu.Lock()
				healthy = true
				mu.Unlock()
				if err := r.Enable(t.Context(), "w", "ada"); err != nil {
					t.Fatal(err)
				}
				if how == "recover" {
					time.Sleep(time.Hour)
					mu.Lock()
					seen = nil
					mu.Unlock()
				}
				if _, err := r.Recover(t.Context(), "w", Recovery{Failed: true}, "ada"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Hour)
				mu.Lock()
				defer mu.Unlock()
				most := 0
				for i, n := range seen {
					// Each response allows one more attempt in flight: 1, 2, 4, 8.
					if n > i+1 || i == 0 && n != 1 || i < 3 && n > 2 {
						t.Errorf("request %d began with %d under way", i+1, n)
					}
					most = max(most, n)
				}
				if most != 8 {
					t.Errorf("at most %d were under way, want it to come to 8; %v", most, seen)
				}
			})
		})
	}
}

// TestWhatWaitsOnARungIsSentNow: after an outage, deliveries that wait for a retry can
// be sent at once: slowly at first, oldest first, and only if somebody asks.
func TestWhatWaitsOnARungIsSentNow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const all = 40
		var mu sync.Mutex
		status, underWay, most := http.StatusInternalServerError, 0, 0
		rs := &receivers{answer: func(request) (int, http.Header) {
			mu.Lock()
			defer mu.Unlock()
			if status != http.StatusOK {
				return status, nil
			}
			underWay++
			most = max(most, underWay)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			underWay--
			return http.StatusOK, nil
		}}
		r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, Config{
			Webhooks: []WebhookConfig{{Name: "w", URL: "https://r.example/", Retry: []time.Duration{24 * time.Hour}, Concurrency: 8, Ordered: true}},
		})
		defer stop()
		for i := range all {
			accept(t, r, fmt.Sprintf("fb_%02d", i))
		}
		time.Sleep(time.Hour)
		mu.Lock()
		status = http.StatusOK
		mu.Unlock()
		recoverWaiting := func(dry bool) int64 {
			t.Helper()
			n, err := r.Recover(t.Context(), "w", Recovery{Waiting: true, DryRun: dry}, "ada")
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		if n := recoverWaiting(true); n != all {
			t.Errorf("%d are counted, want %d", n, all)
		}
		time.Sleep(time.Hour)
		sent := len(rs.all())
		if sent != all {
			t.Fatalf("%d requests after counting, want the first %d alone", sent, all)
		}

		if err := r.Disable(t.Context(), "w", "ada"); err != nil {
			t.Fatal(err)
		}
		if n := recoverWaiting(false); n != all {
			t.Errorf("%d are queued while the webhook is paused, want %d", n, all)
		}
		time.Sleep(time.Hour)
		if now := len(rs.all()); now != sent {
			t.Errorf("a paused webhook got %d requests", now-sent)
		}
		if err := r.Enable(t.Context(), "w", "ada"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		got := rs.all()[sent:]
		if len(got) != all {
			t.Errorf("%d were sent within a minute, want %d", len(got), all)
		}
		for i, s := range got {
			near := got[max(i-8, 0):min(i+9, len(got))] // at most as many as may be in flight together
			if !slices.ContainsFunc(near, func(s request) bool { return strings.Contains(s.body, fmt.Sprintf("fb_%02d", i)) }) {
				t.Errorf("request %d is %s, want the oldest first", i, s.body)
			}
		}
		if n := recoverWaiting(false); n != 0 {
			t.Errorf("%d are queued again when nothing waits", n)
		}
		if most > 8 {
			t.Errorf("%d were under way at one time", most)
		}
	})
}

// TestSendingWhatWaitsSparesAReceiverThatIsStillAway: one probe goes out, and no other
// delivery uses up a rung.
func TestSendingWhatWaitsSparesAReceiverThatIsStillAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rs := &receivers{answer: always(http.StatusInternalServerError)}
		r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, Config{
			Webhooks: []WebhookConfig{{Name: "w", URL: "https://r.example/", Retry: []time.Duration{time.Minute, 24 * time.Hour}}},
		})
		defer stop()
		accept(t, r, "fb_first")
		time.Sleep(25 * time.Hour) // the ladder runs out and the webhook becomes failing
		for i := range 20 {
			accept(t, r, fmt.Sprintf("fb_%d", i))
		}
		time.Sleep(time.Hour)
		w, _ := r.Webhook("w")
		if w.State != Failing || w.Counts.Retrying == 0 {
			t.Fatalf("the webhook is %+v", w)
		}
		sent := len(rs.all())
		count, err := r.Recover(t.Context(), "w", Recovery{Waiting: true}, "ada")
		if err != nil || count != w.Counts.Retrying {
			t.Errorf("%d of %d are queued: %v", count, w.Counts.Retrying, err)
		}
		time.Sleep(10 * time.Second)
		if n := len(rs.all()) - sent; n != 1 {
			t.Errorf("%d requests, want one probe", n)
		}
	})
}
