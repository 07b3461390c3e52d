package queuetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/userhero/relay/queue"
)

// join returns a second relay's queue on the same store.
func (t *trial) join() *trial {
	t.Helper()
	other := *t
	other.n = 1 << 20 // its events are others
	other.take(t.h.Join(t.T, t.q))
	return &other
}

// knows waits until the relay knows a webhook that another one has made.
func (t *trial) knows(w queue.WebhookID) {
	t.Helper()
	t.eventually("a webhook of another relay is known", func() string {
		all, err := t.q.Webhooks(t.ctx)
		t.ok("Webhooks", err)
		if !slices.ContainsFunc(all, func(have queue.Webhook) bool { return have.ID == w }) {
			return fmt.Sprintf("it is not among %d", len(all))
		}
		return ""
	})
}

// owns waits until the relay owns a lane.
func (t *trial) owns(l queue.Lane) {
	t.Helper()
	t.eventually("the lane is owned", func() string {
		if !l.Owned() {
			return "it is not"
		}
		return ""
	})
}

// joined returns a webhook whose lane the relay owns, and a second relay, whose lane waits.
func (t *trial) joined() (w queue.WebhookID, l queue.Lane, other *trial, waits queue.Lane) {
	t.Helper()
	w = t.webhook("w")
	l = t.lane(w, 8)
	t.owns(l)
	other = t.join()
	other.knows(w)
	return w, l, other, other.lane(w, 8)
}

// laneHasOneOwner opens a lane in two relays: one hands out, the other one when the
// first closes. What was settled before does not come again.
func laneHasOneOwner(t *trial) {
	w, l, other, waits := t.joined()
	events := t.several(6, w)
	for _, e := range events[:2] {
		lease := t.one(l)
		equal(t, "what comes", lease.Event.ID, e.ID)
		t.ok("Ack", lease.Ack(made(200)))
	}
	other.nothing(waits, "another relay owns the lane")
	equal(t, "Owned of the relay that waits", waits.Owned(), false)
	out := t.one(l)
	t.ok("closing the owner's lane", l.Close())
	other.owns(waits)
	again := other.one(waits)
	equal(t, "what comes first from the next owner", again.Event.ID, out.Event.ID)
	t.is("Ack of a lease whose lane was closed", out.Ack(made(200)), queue.ErrLeaseLost)
	t.ok("the next owner's Ack", again.Ack(made(201)))
	for _, e := range events[3:] {
		lease := other.one(waits)
		equal(t, "what comes from the next owner", lease.Event.ID, e.ID)
		t.ok("Ack", lease.Ack(made(200)))
	}
	t.ok("Sync", waits.Sync(t.ctx))
	t.counts(w, queue.Counts{Delivered: 6})
	other.counts(w, queue.Counts{Delivered: 6})
	attempts := t.attempts(out.Delivery.ID)
	if len(attempts) != 1 || attempts[0].Status != 201 {
		t.Errorf("the attempts of what was out are %+v, want the next owner's", attempts)
	}
}

// lostLaneSettlesNothing takes a lane from its owner while deliveries are out: the next
// owner has them, and what the one before settles counts for nothing.
func lostLaneSettlesNothing(t *trial) {
	w, l, other, waits := t.joined()
	events := t.several(4, w)
	leases := t.leases(l, 4)
	t.ok("Ack before the lane is lost", leases[0].Ack(made(200)))
	t.ok("Sync before the lane is lost", l.Sync(t.ctx))
	t.h.Lose(t.T, t.q, w)
	other.owns(waits)
	next := other.leases(waits, 3)
	for i, s := range settlements[:3] {
		_ = s.do(leases[i+1]) // it may not know yet; what it settles is not stored
	}
	t.eventually("the owner before knows", func() string {
		for i, lease := range leases[1:] {
			if !lease.Lost() {
				return fmt.Sprintf("lease %d is not lost", i+1)
			}
		}
		return ""
	})
	t.is("settling a lease that is lost", leases[1].Ack(made(200)), queue.ErrLeaseLost)
	t.is("Sync of a lane that was lost", l.Sync(t.ctx), queue.ErrLeaseLost)
	for i, lease := range next {
		equal(t, "what the next owner has", lease.Event.ID, events[i+1].ID)
		t.ok("the next owner's Ack", lease.Ack(made(201)))
	}
	t.ok("the next owner's Sync", waits.Sync(t.ctx))
	other.counts(w, queue.Counts{Delivered: 4})
	for i, e := range events[1:] {
		attempts := other.attempts(queue.DeliveryID{Event: e.ID, Webhook: w})
		if len(attempts) != 1 || attempts[0].Status != 201 {
			t.Errorf("the attempts of event %d are %+v, want the next owner's", i+1, attempts)
		}
	}
	other.nothing(waits, "all was delivered")
}

// retriesMoveWithTheirLane checks that the next owner knows when what failed is due.
func retriesMoveWithTheirLane(t *trial) {
	w, l, other, waits := t.joined()
	t.several(2, w)
	leases := t.leases(l, 2)
	due := time.Now().Add(3 * time.Second)
	t.ok("Retry", leases[0].Retry(due, made(500)))
	t.ok("Retry in an hour", leases[1].Retry(time.Now().Add(time.Hour), made(500)))
	t.ok("Sync", l.Sync(t.ctx))
	t.h.Lose(t.T, t.q, w)
	other.owns(waits)
	lease := other.one(waits)
	if early := time.Until(due); early > 0 {
		t.Errorf("the next owner hands out a retry %v before it is due", early)
	}
	equal(t, "what is due", lease.Delivery.ID, leases[0].Delivery.ID)
	equal(t, "its rung", lease.Delivery.Rung, 1)
	t.ok("Ack", lease.Ack(made(200)))
	other.nothing(waits, "the other retry is due in an hour")
	t.requeue(leases[1].Delivery.ID, time.Time{}) // from the relay that does not own the lane
	lease = other.one(waits)
	equal(t, "what another relay has requeued", lease.Delivery.ID, leases[1].Delivery.ID)
	t.ok("Ack", lease.Ack(made(200)))
	t.counts(w, queue.Counts{Delivered: 2})
}

// relaysSeeTheSame reads on one relay what the other one has written.
func relaysSeeTheSame(t *trial) {
	other := t.join()
	if t.q.Node() == "" || t.q.Node() == other.q.Node() {
		t.Errorf("two relays are named %q and %q", t.q.Node(), other.q.Node())
	}
	w := t.webhook("w")
	other.knows(w)
	e := other.enqueue(w)
	equal(t, "the latest event, accepted by the other relay", t.latest(e.Feedback).ID, e.ID)
	_, err := t.q.Enqueue(t.ctx, other.update(e, w))
	t.ok("an update of what the other relay has accepted", err)
	_, err = other.q.Enqueue(t.ctx, other.update(e, w))
	t.is("an update of what is replaced", err, queue.ErrConflict)
	keyed := t.entry(w)
	keyed.Key, keyed.Answer = key("k", 1), []byte("the answer")
	t.accept(keyed)
	other.gets("a repeat at the other relay", keyed, "the answer")
	t.counts(w, queue.Counts{Pending: 3})
	other.counts(w, queue.Counts{Pending: 3})
	equal(t, "the number of events on the other relay", other.q.Stats(t.ctx).Events, 3)
	if s := other.q.Stats(t.ctx); time.Since(s.AsOf) > t.h.Patience {
		t.Errorf("counts are as of %v ago", time.Since(s.AsOf))
	}
}

// watchTellsOfEveryRelay watches on one relay what the other one writes.
func watchTellsOfEveryRelay(t *trial) {
	w := t.webhook("first")
	other := t.join()
	var mu sync.Mutex
	seen := make(map[queue.WebhookID]string)
	ctx, cancel := context.WithCancel(t.ctx)
	var running sync.WaitGroup
	running.Go(func() {
		other.q.Watch(ctx, func(w queue.Webhook, deleted bool) {
			mu.Lock()
			defer mu.Unlock()
			seen[w.ID] = fmt.Sprintf("%s %s %t", w.Name, w.Data, deleted)
		})
	})
	shows := func(w queue.WebhookID, want string) {
		t.Helper()
		t.eventually("a change is seen", func() string {
			mu.Lock()
			defer mu.Unlock()
			if seen[w] != want {
				return fmt.Sprintf("webhook %d is seen as %q, not %q", w, seen[w], want)
			}
			return ""
		})
	}
	shows(w, "first  false")
	second, err := t.q.PutWebhook(t.ctx, queue.Webhook{Name: "second", Data: []byte("1")})
	t.ok("PutWebhook", err)
	shows(second.ID, "second 1 false")
	second.Data = []byte("2")
	second, err = t.q.PutWebhook(t.ctx, second)
	t.ok("PutWebhook", err)
	shows(second.ID, "second 2 false")
	_, err = t.q.DeleteWebhook(t.ctx, second.ID, second.Revision)
	t.ok("DeleteWebhook", err)
	shows(second.ID, "  true")
	cancel()
	running.Wait()
}

// tellReachesTheOthers sends messages between relays. Nobody hears their own.
func tellReachesTheOthers(t *trial) {
	other := t.join()
	ctx, cancel := context.WithCancel(t.ctx)
	var running sync.WaitGroup
	var mu sync.Mutex
	heard := make(map[string]string)
	for name, q := range map[string]queue.Queue{"first": t.q, "second": other.q} {
		running.Go(func() {
			q.Hear(ctx, func(m []byte) {
				mu.Lock()
				defer mu.Unlock()
				heard[name] = string(m)
			})
		})
	}
	t.eventually("both hear each other", func() string {
		t.q.Tell([]byte("of the first"))
		other.q.Tell([]byte("of the second"))
		mu.Lock()
		defer mu.Unlock()
		if heard["first"] != "of the second" || heard["second"] != "of the first" {
			return fmt.Sprintf("they have heard %v", heard)
		}
		return ""
	})
	cancel()
	running.Wait()
}

// syncIsDurable crashes after Sync: what was settled before does not come again.
func syncIsDurable(t *trial) {
	w := t.webhook("w")
	l := t.lane(w, 8)
	t.several(3, w)
	leases := t.leases(l, 3)
	t.ok("Ack", leases[0].Ack(made(200)))
	t.ok("Retry", leases[1].Retry(time.Now().Add(time.Hour), made(500)))
	t.ok("Sync", l.Sync(t.ctx))
	t.crash()
	l = t.lane(w, 8)
	equal(t, "what comes after the crash", t.one(l).Delivery.ID, leases[2].Delivery.ID)
	t.nothing(l, "the others were settled and synced")
	t.counts(w, queue.Counts{Pending: 1, Retrying: 1, Delivered: 1})
}
