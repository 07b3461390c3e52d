package relay

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
)

// limited is a receiver that accepts a number of requests and then answers with
// Retry-After.
type limited struct {
	takes int
	asks  string // Retry-After
}

func (l *limited) answer(request) (int, http.Header) {
	if l.takes > 0 {
		l.takes--
		return http.StatusOK, nil
	}
	return http.StatusTooManyRequests, http.Header{"Retry-After": {l.asks}}
}

func holding(t *testing.T, q queue.Queue, l *limited, change func(*WebhookConfig)) (*Relay, *receivers, func()) {
	t.Helper()
	w := WebhookConfig{Name: "w", URL: "http://r.example/", Concurrency: 1}
	if change != nil {
		change(&w)
	}
	rs := &receivers{}
	rs.answer = func(r request) (int, http.Header) {
		rs.mu.Lock()
		defer rs.mu.Unlock()
		return l.answer(r)
	}
	r, stop := startOn(t, q, rs, Config{Webhooks: []WebhookConfig{w}})
	return r, rs, stop
}

// set changes how the receivers answer.
func (rs *receivers) set(change func()) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	change()
}

// TestRetryAfterHoldsTheWholeWebhookOff: a receiver asks for 30 seconds, and nothing is
// sent until then. Waiting deliveries use up no rung. Then one delivery probes, and the
// rest follows.
func TestRetryAfterHoldsTheWholeWebhookOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &limited{takes: 8, asks: "30"}
		r, rs, stop := holding(t, memqueue.New(memqueue.Options{}), l, nil)
		defer stop()
		began := time.Now()
		for i := range 500 {
			accept(t, r, fmt.Sprint("fb_", i))
		}
		time.Sleep(time.Second)
		if n := len(rs.all()); n != 9 {
			t.Fatalf("%d requests, want eight that were taken and the one that was told to wait", n)
		}
		w, _ := r.Webhook("w")
		if w.State != Active || w.HeldUntil.Sub(began) < 30*time.Second || w.Counts.Retrying != 1 || w.Counts.Pending != 491 {
			t.Errorf("held until %s after the beginning: %+v", w.HeldUntil.Sub(began), w)
		}
		if result, err := r.Test(t.Context(), "w"); err != nil || result.Attempt.Status != http.StatusTooManyRequests {
			t.Errorf("a test send does not go out: %+v, %v", result, err)
		}
		if _, err := r.Recover(t.Context(), "w", Recovery{Missed: true}, "ada"); err != nil {
			t.Error(err)
		}
		for _, d := range deliveries(t, r, queue.Retrying) {
			if err := r.Redeliver(t.Context(), d.ID, "ada"); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(28 * time.Second)
		if n := len(rs.all()); n != 10 {
			t.Fatalf("%d requests before the 30 s were over, want nine and the test", n)
		}
		time.Sleep(2 * time.Second) // the probe also gets a Retry-After
		if n, waiting := len(rs.all()), len(deliveries(t, r, queue.Pending)); n != 11 || waiting != 491 {
			t.Fatalf("%d requests, %d wait without having used up a rung; want one probe", n, waiting)
		}
		rs.set(func() { l.takes = 1 << 20 })
		time.Sleep(2 * time.Minute)
		if w, _ := r.Webhook("w"); w.Counts.Delivered != 500 || !w.HeldUntil.IsZero() {
			t.Errorf("after the receiver is well: %+v", w)
		}
	})
}

func deliveries(t *testing.T, r *Relay, s queue.State) []queue.Delivery {
	t.Helper()
	page, err := r.Queue().Deliveries(t.Context(), queue.DeliveryQuery{States: []queue.State{s}, Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return page.Items
}

// TestAHoldLastsAtMostAnHour: a Retry-After of a day moves one delivery's next attempt
// by a day, but the webhook is tried again after an hour.
func TestAHoldLastsAtMostAnHour(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &limited{asks: "86400"}
		r, rs, stop := holding(t, memqueue.New(memqueue.Options{}), l, nil)
		defer stop()
		accept(t, r, "fb_1")
		accept(t, r, "fb_2")
		time.Sleep(59 * time.Minute)
		if n := len(rs.all()); n != 1 {
			t.Fatalf("%d requests within the hour, want one", n)
		}
		time.Sleep(2 * time.Minute)
		if n := len(rs.all()); n != 2 {
			t.Errorf("%d requests after it, want a probe with the delivery that is due", n)
		}
		for _, d := range deliveries(t, r, queue.Retrying) {
			if wait := time.Until(d.Due); wait < 22*time.Hour {
				t.Errorf("%s is due in %s", d.ID, wait)
			}
		}
	})
}

// TestAHoldOutlivesARestart: a hold survives a restart. It ends if the webhook gets
// another URL.
func TestAHoldOutlivesARestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := memqueue.New(memqueue.Options{})
		l := &limited{asks: "600"}
		r, _, stop := holding(t, q, l, nil)
		accept(t, r, "fb_1")
		accept(t, r, "fb_2")
		time.Sleep(time.Second)
		stop()
		r, rs, stop := holding(t, q, l, nil)
		defer stop()
		time.Sleep(9 * time.Minute)
		if n := len(rs.all()); n != 0 {
			t.Errorf("%d requests after the restart, within the ten minutes", n)
		}
		if err := r.Disable(t.Context(), "w", "ada"); err != nil {
			t.Fatal(err)
		}
		if err := r.Enable(t.Context(), "w", "ada"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if n := len(rs.all()); n != 0 {
			t.Errorf("%d requests after the owner enabled it, within the ten minutes", n)
		}
		if _, err := r.Attach(Config{Webhooks: []WebhookConfig{{Name: "w", URL: "http://other.example/"}}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if n := len(rs.all()); n == 0 {
			t.Error("another receiver is left alone too")
		}
	})
}

// TestABlackHoleOpensTheBreaker: if connecting hangs until the timeout, it counts as a
// failed connection, whatever the timeout is.
func TestABlackHoleOpensTheBreaker(t *testing.T) {
	t.Parallel()
	for _, timeout := range []time.Duration{time.Second, 10 * time.Second, DefaultTimeout} {
		synctest.Test(t, func(t *testing.T) {
			q := memqueue.New(memqueue.Options{})
			r := New(Options{Queue: q, Dial: blackHole})
			if err := r.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := r.Attach(Config{Webhooks: []WebhookConfig{{Name: "w", URL: "http://r.example/", Timeout: timeout}}}); err != nil {
				t.Fatal(err)
			}
			for i := range 50 {
				accept(t, r, fmt.Sprint("fb_", i))
			}
			time.Sleep(20 * timeout)
			w, _ := r.Webhook("w")
			if w.Counts.Pending < 30 {
				t.Errorf("timeout %s: of 50 only %d have not used up a rung", timeout, w.Counts.Pending)
			}
			if w.LastAnswer.Class != "timeout" {
				t.Errorf("timeout %s: %+v", timeout, w.LastAnswer)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_ = r.Stop(ctx)
		})
	}
}

// blackHole is a network in which connecting hangs.
func blackHole(ctx context.Context, network, _ string) (net.Conn, error) {
	<-ctx.Done()
	return nil, &net.OpError{Op: "dial", Net: network, Err: ctx.Err()}
}
