package memqueue_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
)

// onFakeTime runs a test on fake time, in which days pass at once, with a queue, one
// webhook and its lane.
func onFakeTime(t *testing.T, o memqueue.Options, test func(t *testing.T, q *memqueue.Queue, w queue.Webhook, l queue.Lane)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		q := memqueue.New(o)
		w, err := q.PutWebhook(t.Context(), queue.Webhook{Name: "w"})
		if err != nil {
			t.Fatal(err)
		}
		l, err := q.Lane(w.ID, queue.LaneOptions{})
		if err != nil {
			t.Fatal(err)
		}
		test(t, q, w, l)
		if err := q.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

func enqueue(t *testing.T, q *memqueue.Queue, e queue.Entry) queue.Receipt {
	t.Helper()
	e.Type, e.Created, e.Body = "feedback.created", time.Now(), []byte("{}")
	r, err := q.Enqueue(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func one(t *testing.T, l queue.Lane) *queue.Lease {
	t.Helper()
	leases, err := l.Next(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	return leases[0]
}

func gone(t *testing.T, q *memqueue.Queue, id queue.EventID) bool {
	t.Helper()
	_, err := q.Event(t.Context(), id)
	if err != nil && !errors.Is(err, queue.ErrNotFound) {
		t.Fatal(err)
	}
	return err != nil
}

// TestLadderOfDaysComesExactlyInTime: on fake time no rung is late.
func TestLadderOfDaysComesExactlyInTime(t *testing.T) {
	t.Parallel()
	onFakeTime(t, memqueue.Options{}, func(t *testing.T, q *memqueue.Queue, w queue.Webhook, l queue.Lane) {
		enqueue(t, q, queue.Entry{Body: []byte("{}"), Webhooks: []queue.WebhookID{w.ID}})
		for _, rung := range []time.Duration{time.Minute, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 24 * time.Hour} {
			due := time.Now().Add(rung)
			if err := one(t, l).Retry(due, queue.Attempt{Status: 500}); err != nil {
				t.Fatal(err)
			}
			lease := one(t, l)
			if now := time.Now(); !now.Equal(due) {
				t.Errorf("the rung of %v comes at %v, want %v", rung, now, due)
			}
			if err := lease.Defer(time.Time{}); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestKeyIsHeldForADay(t *testing.T) {
	t.Parallel()
	onFakeTime(t, memqueue.Options{}, func(t *testing.T, q *memqueue.Queue, _ queue.Webhook, _ queue.Lane) {
		e := queue.Entry{Body: []byte("{}"), Key: queue.Key{Name: "k"}}
		first := enqueue(t, q, e)
		time.Sleep(24*time.Hour - 1)
		if again := enqueue(t, q, e); !again.Replayed || again.Event.ID != first.Event.ID {
			t.Errorf("a key that is nearly a day old is forgotten")
		}
		time.Sleep(time.Nanosecond)
		if again := enqueue(t, q, e); again.Replayed {
			t.Errorf("a key that is a day old is still held")
		}
	})
}

// TestRetentionCountsFromTheEndAndSparesWhatWaits: an event is removed a week after its
// delivery ended, however old it was then. An event that waits stays, unless it waits
// for a parked webhook.
func TestRetentionCountsFromTheEndAndSparesWhatWaits(t *testing.T) {
	t.Parallel()
	const week = 7 * 24 * time.Hour
	onFakeTime(t, memqueue.Options{Limits: queue.Limits{Retention: week}}, func(t *testing.T, q *memqueue.Queue, w queue.Webhook, l queue.Lane) {
		sweep := func() { enqueue(t, q, queue.Entry{Body: []byte("{}")}) }
		e := queue.Entry{Body: []byte("{}"), Webhooks: []queue.WebhookID{w.ID}}
		ended := enqueue(t, q, e).Event.ID
		if err := one(t, l).Retry(time.Now().Add(2*week), queue.Attempt{Status: 500}); err != nil {
			t.Fatal(err)
		}
		lease := one(t, l)
		sweep()
		if gone(t, q, ended) {
			t.Fatal("an event is gone while its delivery waits")
		}
		if err := lease.Ack(queue.Attempt{Status: 200}); err != nil {
			t.Fatal(err)
		}
		waits := enqueue(t, q, e).Event.ID
		time.Sleep(week - 1)
		sweep()
		if gone(t, q, ended) {
			t.Error("an event is gone within a week after its delivery ended")
		}
		time.Sleep(time.Nanosecond)
		sweep()
		if !gone(t, q, ended) {
			t.Error("an event is kept though its delivery ended a week ago")
		}
		if gone(t, q, waits) {
			t.Error("an event is gone while its delivery waits")
		}
		if c := q.Stats(context.Background()).Webhooks[w.ID].Counts; c != (queue.Counts{Pending: 1}) {
			t.Errorf("the counters are %+v, want one pending", c)
		}
		w.Expires = true
		if _, err := q.PutWebhook(t.Context(), w); err != nil {
			t.Fatal(err)
		}
		sweep()
		if !gone(t, q, waits) {
			t.Error("an event is kept though what waits is parked and a week old")
		}
	})
}

// TestCrashTakesBackWhatWasNotYetDurable: a crash loses lazy settlements unless a
// durable operation followed.
func TestCrashTakesBackWhatWasNotYetDurable(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]struct {
		o    memqueue.Options
		do   func(t *testing.T, q *memqueue.Queue)
		want queue.State
	}{
		"nothing":                {memqueue.Options{LazySettles: true}, func(*testing.T, *memqueue.Queue) {}, queue.Pending},
		"Sync":                   {memqueue.Options{LazySettles: true}, func(_ *testing.T, q *memqueue.Queue) { q.Sync() }, queue.Delivered},
		"Enqueue":                {memqueue.Options{LazySettles: true}, func(t *testing.T, q *memqueue.Queue) { enqueue(t, q, queue.Entry{Body: []byte("{}")}) }, queue.Delivered},
		"nothing, settled eager": {memqueue.Options{}, func(*testing.T, *memqueue.Queue) {}, queue.Delivered},
	} {
		t.Run(fmt.Sprintf("then %s", name), func(t *testing.T) {
			t.Parallel()
			onFakeTime(t, after.o, func(t *testing.T, q *memqueue.Queue, w queue.Webhook, l queue.Lane) {
				e := enqueue(t, q, queue.Entry{Body: []byte("{}"), Webhooks: []queue.WebhookID{w.ID}}).Event
				if err := one(t, l).Ack(queue.Attempt{Status: 200}); err != nil {
					t.Fatal(err)
				}
				after.do(t, q)
				left := q.Crash()
				id := queue.DeliveryID{Event: e.ID, Webhook: w.ID}
				d, err := left.Delivery(t.Context(), id)
				if err != nil {
					t.Fatal(err)
				}
				as, err := left.Attempts(t.Context(), id)
				if err != nil {
					t.Fatal(err)
				}
				if d.State != after.want || len(as) != d.Attempts {
					t.Errorf("after the crash the delivery is %s with %d of %d attempts, want %s", d.State, len(as), d.Attempts, after.want)
				}
				if err := q.Health(); !errors.Is(err, queue.ErrClosed) {
					t.Errorf("the queue that crashed says %v, want %v", err, queue.ErrClosed)
				}
			})
		})
	}
}
