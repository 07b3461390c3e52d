package queuetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/userhero/relay/queue"
)

// eraser is the queue, which must be able to erase.
func (t *trial) eraser() queue.Eraser {
	t.Helper()
	q, ok := t.q.(queue.Eraser)
	if !ok {
		t.Fatalf("%T does not erase", t.q)
	}
	return q
}

// erase erases feedbacks. It must succeed.
func (t *trial) erase(ids ...queue.FeedbackID) queue.Erased {
	t.Helper()
	sum, err := t.eraser().Erase(t.ctx, ids)
	t.ok("Erase", err)
	return sum
}

// isErased checks that the queue has nothing of events that were erased.
func (t *trial) isErased(when string, id queue.FeedbackID, events ...queue.Event) {
	t.Helper()
	_, err := t.q.Latest(t.ctx, id)
	t.is(when+", Latest of an erased feedback", err, queue.ErrErased)
	if slices.Contains(t.projects(id.ID, 100), id.Project) {
		t.Errorf("%s: Projects names the project of an erased feedback", when)
	}
	for _, e := range events {
		_, err := t.q.Event(t.ctx, e.ID)
		t.is(when+", Event of an erased feedback", err, queue.ErrNotFound)
		_, err = t.q.EventDeliveries(t.ctx, e.ID)
		t.is(when+", EventDeliveries of an erased feedback", err, queue.ErrNotFound)
	}
	for _, e := range t.allEvents(queue.EventQuery{}) {
		if e.Feedback == id {
			t.Errorf("%s: Events lists %s of an erased feedback", when, e.ID)
		}
	}
	for _, d := range t.allDeliveries(queue.DeliveryQuery{}) {
		if d.Feedback == id {
			t.Errorf("%s: Deliveries lists %s of an erased feedback", when, d.ID)
		}
	}
}

// eraseRemovesEverything erases a feedback with deliveries in every state.
func eraseRemovesEverything(t *trial) {
	w, parked := t.webhook("w"), t.webhook("parked")
	l := t.lane(w, 8)
	kept := t.enqueue(w, parked)
	t.ok("Ack", t.one(l).Ack(made(200)))
	created := t.enqueue(w, parked)
	id := created.Feedback
	namesake := t.entry(w)
	namesake.Feedback = queue.FeedbackID{Project: "another", ID: id.ID}
	other := t.accept(namesake)
	t.ok("Dead", t.one(l).Dead(made(500)))
	t.ok("Ack", t.one(l).Ack(made(200)))
	events := []queue.Event{created}
	for _, s := range settlements {
		events = append(events, t.accept(t.update(events[len(events)-1], w)))
		t.ok(s.name, s.do(t.one(l)))
	}
	events = append(events, t.accept(t.update(events[len(events)-1], parked))) // never leased
	t.counts(w, queue.Counts{Pending: 1, Retrying: 1, Delivered: 3, Failed: 2})
	t.counts(parked, queue.Counts{Pending: 3})

	sum := t.erase(id)
	equal(t, "what was erased", sum, queue.Erased{Feedbacks: 1, Events: 6, Deliveries: 7, Waiting: 4, Attempts: 4})
	check := func(when string) {
		t.Helper()
		t.isErased(when, id, events...)
		_, err := t.q.Delivery(t.ctx, queue.DeliveryID{Event: created.ID, Webhook: w})
		t.is(when+", Delivery of an erased feedback", err, queue.ErrNotFound)
		as, err := t.q.Attempts(t.ctx, queue.DeliveryID{Event: created.ID, Webhook: w})
		if !errors.Is(err, queue.ErrNotFound) || len(as) > 0 {
			t.Errorf("%s: the attempts of an erased feedback are %v, %v", when, as, err)
		}
		t.is(when+", Requeue of an erased feedback", t.q.Requeue(t.ctx, queue.DeliveryID{Event: created.ID, Webhook: w}, time.Now()), queue.ErrNotFound)
		t.counts(w, queue.Counts{Delivered: 2})
		t.counts(parked, queue.Counts{Pending: 1})
		equal(t, when+": the number of events", t.q.Stats(t.ctx).Events, 2)
		equal(t, when+": the latest event of the other project", t.latest(other.Feedback).ID, other.ID)
		equal(t, when+": the attempts of another feedback", len(t.attempts(queue.DeliveryID{Event: kept.ID, Webhook: w})), 1)
		equal(t, when+": the attempts in the other project", len(t.attempts(queue.DeliveryID{Event: other.ID, Webhook: w})), 1)
	}
	check("at once")
	equal(t, "what is erased the second time", t.erase(id), queue.Erased{})
	t.ok("Compact", t.eraser().Compact(t.ctx))
	check("compacted")
	t.reopen()
	check("reopened")
}

// erasedNeverComesBack: of a repeat nothing is stored, whatever it is known by.
func erasedNeverComesBack(t *trial) {
	w := t.webhook("w")
	e := t.entry(w)
	e.Key, e.Origin, e.Answer = key("created", 1), [32]byte{7}, []byte("the answer")
	created := t.accept(e)
	update := t.update(created, w)
	update.Key = key("updated", 1)
	updated := t.accept(update)
	unchanged := t.update(updated, w)
	unchanged.Body, unchanged.Key, unchanged.Answer = nil, key("unchanged", 1), []byte("as it was")
	_, err := t.q.Enqueue(t.ctx, unchanged)
	t.ok("Enqueue without a document", err)
	other := t.entry(w)
	other.Feedback, other.Key = queue.FeedbackID{Project: "another", ID: e.Feedback.ID}, key("other", 1)
	t.accept(other)

	equal(t, "what was erased", t.erase(e.Feedback), queue.Erased{Feedbacks: 1, Events: 2, Deliveries: 2, Waiting: 2, Keys: 3})
	check := func(when string) {
		t.Helper()
		byOrigin, another, unknown := e, t.entry(w), t.update(updated, w)
		byOrigin.Key, another.Feedback = queue.Key{}, e.Feedback
		unknown.Replaces = created.ID
		for name, entry := range map[string]queue.Entry{
			"its submission": e, "its update": update, "what changed nothing": unchanged, "its submission without the key": byOrigin,
			"another submission with its id": another, "an update of its latest event": t.update(updated), "an update of another event": unknown,
		} {
			_, err := t.q.Enqueue(t.ctx, entry)
			t.is(when+", Enqueue of "+name, err, queue.ErrErased)
		}
		for _, k := range []queue.Key{e.Key, update.Key, unchanged.Key} {
			_, err := t.q.Repeat(t.ctx, k)
			t.is(when+", Repeat with the key of what was erased", err, queue.ErrErased)
			_, err = t.q.Repeat(t.ctx, key(k.Name, 2))
			t.is(when+", Repeat with that key and another body", err, queue.ErrMismatch)
		}
		t.gets(when+", in another project", other, "")
		t.isErased(when, e.Feedback, created, updated)
		equal(t, when+": the number of events", t.q.Stats(t.ctx).Events, 1)
	}
	check("at once")
	t.reopen()
	check("reopened")
}

// eraseWaitsForAttemptsInFlight: what is leased is gone at once, and Erase returns when
// its leases have ended, whatever they end with.
func eraseWaitsForAttemptsInFlight(t *trial) {
	w, v := t.webhook("w"), t.webhook("v")
	lw, lv := t.lane(w, 8), t.lane(v, 8)
	for _, s := range append([]settlement{{"Defer at once", func(l *queue.Lease) error { return l.Defer(time.Time{}) }, queue.Pending, 0}}, settlements[:]...) {
		e := t.enqueue(w, v)
		next := t.enqueue(w, v)
		first, second := t.one(lw), t.one(lv)
		erased, q := make(chan error, 1), t.eraser()
		go func() {
			_, err := q.Erase(t.ctx, []queue.FeedbackID{e.Feedback})
			erased <- err
		}()
		t.eventually("what is leased is removed", func() string {
			if _, err := t.q.Event(t.ctx, e.ID); !errors.Is(err, queue.ErrNotFound) {
				return fmt.Sprintf("Event returns %v", err)
			}
			return ""
		})
		t.ok(s.name, s.do(first))
		select {
		case err := <-erased:
			t.Fatalf("%s: Erase returned %v while a delivery was leased", s.name, err)
		case <-time.After(moment):
		}
		equal(t, s.name+": Lost of a lease whose delivery was removed", second.Lost(), false)
		t.ok(s.name, s.do(second))
		select {
		case err := <-erased:
			t.ok(s.name+": Erase", err)
		case <-time.After(t.h.Patience):
			t.Fatalf("%s: Erase has not returned", s.name)
		}
		for _, l := range []queue.Lane{lw, lv} {
			lease := t.one(l)
			equal(t, s.name+": what comes next", lease.Event.ID, next.ID)
			t.ok("Ack", lease.Ack(made(200)))
			t.nothing(l, "what was next was erased")
		}
	}
	t.counts(w, queue.Counts{Delivered: 5})
	t.counts(v, queue.Counts{Delivered: 5})
}

// eraseEndsWithItsContext: the attempts in flight may outlast the caller's patience.
func eraseEndsWithItsContext(t *trial) {
	w := t.webhook("w")
	l := t.lane(w, 8)
	e := t.enqueue(w)
	lease := t.one(l)
	ctx, cancel := context.WithTimeout(t.ctx, 10*moment)
	defer cancel()
	_, err := t.eraser().Erase(ctx, []queue.FeedbackID{e.Feedback})
	t.is("Erase while a delivery stays leased", err, context.DeadlineExceeded)
	t.ok("Ack", lease.Ack(made(200)))
	t.erase(e.Feedback)
	t.isErased("after another call", e.Feedback, e)
	t.counts(w, queue.Counts{})
}

// erasedDeliveriesAreNotHandedOut erases what a lane has read already.
func erasedDeliveriesAreNotHandedOut(t *trial) {
	w := t.webhook("w")
	l := t.lane(w, 4)
	var ids []queue.FeedbackID
	var kept []queue.EventID
	first := t.enqueue(w)
	lease := t.one(l)
	equal(t, "what comes first", lease.Event.ID, first.ID)
	for i := range 60 {
		if e := t.enqueue(w); i%3 == 0 {
			kept = append(kept, e.ID)
		} else {
			ids = append(ids, e.Feedback)
		}
	}
	t.ok("Defer", lease.Defer(time.Time{}))
	sum := t.erase(ids...)
	equal(t, "what was erased", sum, queue.Erased{Feedbacks: 40, Events: 40, Deliveries: 40, Waiting: 40})
	late := t.enqueue(w)
	var got []queue.EventID
	for range 1 + len(kept) + 1 {
		lease := t.one(l)
		got = append(got, lease.Event.ID)
		t.ok("Ack", lease.Ack(made(200)))
	}
	sameIDs(t, "what is handed out", got, append(append([]queue.EventID{first.ID}, kept...), late.ID))
	t.nothing(l, "all else was erased")
	t.counts(w, queue.Counts{Delivered: 22})
}

func eraseOfUnknownDoesNothing(t *trial) {
	kept := t.enqueue()
	e := t.entry()
	e.Feedback = queue.FeedbackID{Project: "p", ID: "unknown"}
	equal(t, "what was erased", t.erase(e.Feedback, queue.FeedbackID{ID: kept.Feedback.ID}), queue.Erased{})
	equal(t, "what no ids erase", t.erase(), queue.Erased{})
	t.accept(e)
	t.accept(t.update(kept))
}

// eraseHoldsAgainstEverybody: others create, update and deliver what is being erased.
func eraseHoldsAgainstEverybody(t *trial) {
	t.eraser()
	w := t.webhook("w")
	l := t.lane(w, 16)
	ctx, stop := context.WithCancel(t.ctx)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			leases, err := l.Next(ctx, 8)
			if err != nil {
				return
			}
			for _, lease := range leases {
				_ = lease.Retry(time.Now().Add(time.Millisecond), made(500))
			}
		}
	})
	const writers, rounds = 4, 12
	entries := make([][]queue.Entry, writers)
	for i := range entries {
		for range rounds {
			entries[i] = append(entries[i], t.entry(w))
		}
	}
	var ids []queue.FeedbackID
	for i := range writers {
		for n, e := range entries[i] {
			if n%2 == 0 {
				ids = append(ids, e.Feedback)
			}
		}
	}
	created := make(chan queue.FeedbackID, writers*rounds)
	for i := range writers {
		running.Go(func() {
			for _, e := range entries[i] {
				r, err := t.q.Enqueue(t.ctx, e)
				for n := 0; err == nil && n < 5; n++ {
					if n == 0 {
						created <- e.Feedback
					}
					update := e
					update.Type, update.Replaces = "feedback.updated", r.Event.ID
					r, err = t.q.Enqueue(t.ctx, update)
				}
				if err != nil && !errors.Is(err, queue.ErrErased) {
					t.Errorf("Enqueue: %v", err)
				}
			}
		})
	}
	erased := make(map[queue.FeedbackID]bool)
	for range len(ids) {
		select {
		case id := <-created:
			if slices.Contains(ids, id) {
				t.erase(id)
				erased[id] = true
			}
		case <-t.ctx.Done():
			t.Fatal(t.ctx.Err())
		}
	}
	stop()
	running.Wait()
	for id := range erased {
		t.isErased("in the end", id)
	}
	t.ok("closing the lane", l.Close())
	counts := t.q.Stats(t.ctx).Webhooks[w].Counts
	equal(t, "what is counted", int(counts.Waiting()), len(t.allDeliveries(queue.DeliveryQuery{})))
}

// crashBringsNothingErasedBack: what Erase has acknowledged is durable.
func crashBringsNothingErasedBack(t *trial) {
	w := t.webhook("w")
	l := t.lane(w, 8)
	e := t.entry(w)
	e.Key = key("k", 1)
	created := t.accept(e)
	t.ok("Retry", t.one(l).Retry(time.Now(), made(500)))
	t.erase(e.Feedback)
	t.crash()
	t.isErased("after a crash", e.Feedback, created)
	_, err := t.q.Enqueue(t.ctx, e)
	t.is("Enqueue of a repeat", err, queue.ErrErased)
	t.nothing(t.lane(w, 8), "everything was erased")
	t.counts(w, queue.Counts{})
}
