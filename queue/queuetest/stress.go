package queuetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/userhero/relay/queue"
)

// ledger records what really happened to deliveries.
type ledger struct {
	t  *trial
	mu sync.Mutex
	// accounts holds an account for each delivery that was ever handed out.
	accounts map[queue.DeliveryID]*account
	// moving holds deliveries being requeued, whose due time is not known.
	moving map[queue.DeliveryID]bool
}

type account struct {
	out      bool
	attempts int
	ended    bool
	due      time.Time
}

// handedOut records a lease and checks it.
func (b *ledger) handedOut(lease *queue.Lease) {
	b.mu.Lock()
	defer b.mu.Unlock()
	id := lease.Delivery.ID
	a := b.accounts[id]
	if a == nil {
		a = &account{}
		b.accounts[id] = a
	}
	switch early := time.Until(a.due); {
	case a.out:
		b.t.Errorf("%s is handed out while it is out", id)
	case early > 0 && !b.moving[id]:
		b.t.Errorf("%s is handed out %v before it is due", id, early)
	case lease.Delivery.Attempts != a.attempts:
		b.t.Errorf("%s is handed out with %d attempts, and %d were made", id, lease.Delivery.Attempts, a.attempts)
	}
	a.out, a.ended = true, false
}

// settle settles a lease at random and records it. It records first, because the
// delivery may be leased again before settle returns.
func (b *ledger) settle(lease *queue.Lease, rnd *rand.Rand) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.accounts[lease.Delivery.ID]
	a.out, a.due = false, time.Time{}
	at := time.Now().Add(time.Duration(rnd.IntN(20)) * time.Millisecond)
	switch n := rnd.IntN(10); {
	case n < 2:
		a.attempts, a.due = a.attempts+1, at
		return lease.Retry(at, made(500))
	case n < 3:
		a.due = at
		return lease.Defer(at)
	case n < 4:
		return lease.Defer(time.Time{})
	case n < 5:
		a.attempts, a.ended = a.attempts+1, true
		return lease.Dead(made(500))
	}
	a.attempts, a.ended = a.attempts+1, true
	return lease.Ack(made(200))
}

// concurrentUseKeepsEveryPromise: goroutines enqueue, deliver, requeue, list, change
// webhooks and read counters at the same time. In the end every delivery has ended, and
// the queue has recorded no attempt that was not made.
func concurrentUseKeepsEveryPromise(t *trial) {
	const writers, each = 8, 150
	webhooks := []queue.WebhookID{t.webhook("a"), t.webhook("b"), t.webhook("c")}
	book := &ledger{t: t, accounts: make(map[queue.DeliveryID]*account), moving: make(map[queue.DeliveryID]bool)}
	ctx, stop := context.WithCancel(t.ctx)
	var accepting, delivering sync.WaitGroup
	defer func() { // also if the test fails early
		stop()
		accepting.Wait()
		delivering.Wait()
	}()
	ids := make(chan queue.EventID, writers*each)
	for n := range writers {
		accepting.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(n))) //nolint:gosec // random, not secret
			for i := range each {
				r, err := t.q.Enqueue(ctx, queue.Entry{
					Type: "feedback.created", Feedback: queue.FeedbackID{Project: fmt.Sprintf("proj_%d", n), ID: fmt.Sprintf("fb_%d", i)},
					Created: time.Now(), Body: fmt.Appendf(nil, `{"writer":%d,"n":%d}`, n, i),
					Webhooks: webhooks[:rnd.IntN(len(webhooks)+1)],
					Key:      key(fmt.Sprintf("%d %d", n, i), 1),
				})
				if err != nil {
					if ctx.Err() == nil {
						t.Errorf("Enqueue: %v", err)
					}
					return
				}
				ids <- r.Event.ID
			}
		})
	}
	for n, w := range webhooks {
		delivering.Go(func() { book.deliver(ctx, w, rand.New(rand.NewPCG(2, uint64(n)))) }) //nolint:gosec // random, not secret
	}
	accepting.Go(func() {
		rnd := rand.New(rand.NewPCG(3, 0)) //nolint:gosec // random, not secret
		for range writers * each {
			var id queue.EventID
			select {
			case id = <-ids:
			case <-ctx.Done():
				return
			}
			if rnd.IntN(7) > 0 {
				continue
			}
			at := time.Now().Add(time.Duration(rnd.IntN(10)-5) * time.Millisecond)
			d := queue.DeliveryID{Event: id, Webhook: webhooks[rnd.IntN(len(webhooks))]}
			book.move(d, true)
			if err := t.q.Requeue(ctx, d, at); err != nil && !errors.Is(err, queue.ErrConflict) && ctx.Err() == nil {
				t.Errorf("Requeue: %v", err)
			}
			book.move(d, false)
		}
	})
	var listed atomic.Int64
	delivering.Go(func() { listed.Store(t.listAgainAndAgain(ctx)) })
	delivering.Go(func() { t.changeWebhooksAgainAndAgain(ctx) })

	accepting.Wait()
	t.eventually("all deliveries end", func() string {
		st := t.q.Stats(t.ctx)
		for _, w := range webhooks {
			if n := st.Webhooks[w].Waiting(); n > 0 {
				return fmt.Sprintf("of webhook %d wait %d", w, n)
			}
		}
		return ""
	})
	stop()
	delivering.Wait()
	book.check(webhooks, writers*each)
	t.Logf("%d lists were walked meanwhile", listed.Load())
}

// deliver is one webhook's relay: it leases and settles, and now and then opens a new
// lane.
func (b *ledger) deliver(ctx context.Context, w queue.WebhookID, rnd *rand.Rand) {
	var lane queue.Lane
	for round := 1; ctx.Err() == nil; round++ {
		if lane == nil {
			var err error
			if lane, err = b.t.q.Lane(w, queue.LaneOptions{MaxInFlight: 6}); err != nil {
				b.t.Errorf("Lane: %v", err)
				return
			}
		}
		leases, err := lane.Next(ctx, 1+rnd.IntN(4))
		if err != nil {
			if ctx.Err() == nil {
				b.t.Errorf("Next: %v", err)
			}
			return
		}
		for _, lease := range leases {
			b.handedOut(lease)
		}
		for _, lease := range leases {
			if err := b.settle(lease, rnd); err != nil {
				b.t.Errorf("settling: %v", err)
			}
		}
		if round%150 == 0 {
			if err := lane.Close(); err != nil {
				b.t.Errorf("closing a lane: %v", err)
			}
			lane = nil
		}
	}
}

// move records that a requeue of a delivery begins or ends. A retry that was settled
// meanwhile may have been moved or not.
func (b *ledger) move(id queue.DeliveryID, begins bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.moving[id] = begins
	if a := b.accounts[id]; a != nil {
		a.due = time.Time{}
	}
}

// check compares the contents of the queue with what happened.
func (b *ledger) check(webhooks []queue.WebhookID, events int) {
	t := b.t
	counted := make(map[queue.WebhookID]queue.Counts)
	seen := 0
	for _, d := range t.allDeliveries(queue.DeliveryQuery{Limit: 97}) {
		seen++
		a := b.accounts[d.ID]
		switch {
		case a == nil:
			t.Errorf("%s was never handed out", describe(d))
			continue
		case d.State.Waiting() || !a.ended:
			t.Errorf("%s; was it settled for good: %v", describe(d), a.ended)
		case d.Attempts != a.attempts:
			t.Errorf("%s; made were %d", describe(d), a.attempts)
		}
		if n := len(t.attempts(d.ID)); n != d.Attempts {
			t.Errorf("%s; kept are %d", describe(d), n)
		}
		c := counted[d.ID.Webhook]
		if d.State == queue.Delivered {
			c.Delivered++
		} else {
			c.Failed++
		}
		counted[d.ID.Webhook] = c
	}
	equal(t, "how many deliveries are stored, against those handed out", seen, len(b.accounts))
	for _, w := range webhooks {
		t.counts(w, counted[w])
	}
	equal(t, "how many events are listed", len(t.allEvents(queue.EventQuery{Limit: 1000})), events)
	equal(t, "how many events are counted", t.q.Stats(t.ctx).Events, int64(events))
}

// breath is how long the watching and disturbing goroutines pause, so that the others
// make progress.
const breath = 5 * time.Millisecond

// rest pauses for a breath. It reports whether there is more to do.
func rest(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(breath):
		return true
	}
}

// listAgainAndAgain lists deliveries and checks that they come newest first, each once.
func (t *trial) listAgainAndAgain(ctx context.Context) (walks int64) {
	for ; rest(ctx); walks++ {
		var last queue.EventID
		cursor, seen, passed := "", make(map[queue.DeliveryID]bool), make(map[queue.EventID]bool)
		for {
			page, err := t.q.Deliveries(ctx, queue.DeliveryQuery{Limit: 100, Cursor: cursor})
			if err != nil {
				if ctx.Err() == nil {
					t.Errorf("Deliveries: %v", err)
				}
				return walks
			}
			for _, d := range page.Items {
				if seen[d.ID] {
					t.Errorf("one walk of the list shows %s twice", d.ID)
				}
				seen[d.ID] = true
				if d.ID.Event != last && passed[d.ID.Event] {
					t.Errorf("the list comes back to %s after %s", d.ID.Event, last)
				}
				last = d.ID.Event
				passed[last] = true
			}
			if cursor = page.Next; cursor == "" {
				break
			}
		}
	}
	return walks
}

// changeWebhooksAgainAndAgain creates, changes and deletes its own webhooks.
func (t *trial) changeWebhooksAgainAndAgain(ctx context.Context) {
	for n := 0; rest(ctx); n++ {
		w, err := t.q.PutWebhook(ctx, queue.Webhook{Name: fmt.Sprintf("passing %d", n)})
		if err == nil {
			w.Data = []byte("changed")
			w, err = t.q.PutWebhook(ctx, w)
		}
		if err == nil {
			_, err = t.q.DeleteWebhook(ctx, w.ID, w.Revision)
		}
		if err != nil && ctx.Err() == nil {
			t.Errorf("making, changing and deleting a webhook: %v", err)
			return
		}
		_ = t.q.Stats(t.ctx)
	}
}
