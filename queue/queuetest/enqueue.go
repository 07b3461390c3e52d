package queuetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/userhero/relay/queue"
)

func eventBytesAreUnchanged(t *trial) {
	w := t.webhook("w")
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	bodies := [][]byte{
		[]byte(`{"event":"feedback.created","data":{"message":"<&>` + "\u2028" + ` \u0007"}}`),
		every,
		{0},
		bytes.Repeat([]byte("0123456789abcdef"), 100<<10/16),
		[]byte(" { } \n\n"),
	}
	var events []queue.Event
	for _, body := range bodies {
		e := t.entry(w)
		e.Body = bytes.Clone(body)
		events = append(events, t.accept(e))
	}
	same := func(where string, i int, e queue.Event) {
		t.Helper()
		if e.ID != events[i].ID || !bytes.Equal(e.Body, bodies[i]) {
			t.Errorf("%s: event %d comes back as %s with %d bytes %.40q, want %s with %d bytes %.40q",
				where, i, e.ID, len(e.Body), e.Body, events[i].ID, len(bodies[i]), bodies[i])
		}
	}
	check := func(when string) {
		t.Helper()
		listed := reversed(t.allEvents(queue.EventQuery{}))
		if len(listed) != len(bodies) {
			t.Fatalf("%s: %d events are listed, want %d", when, len(listed), len(bodies))
		}
		l := t.lane(w, len(bodies))
		leases := t.leases(l, len(bodies))
		for i := range bodies {
			e, err := t.q.Event(t.ctx, events[i].ID)
			t.ok("Event", err)
			same(when+", Event", i, e)
			same(when+", Latest", i, t.latest(events[i].Feedback))
			same(when+", Events", i, listed[i])
			same(when+", Lease", i, leases[i].Event)
		}
		t.ok("closing the lane", l.Close())
	}
	for i, e := range events {
		same("Enqueue", i, e)
	}
	check("after Enqueue")
	t.reopen()
	check("after reopening")
}

func eventIsStoredWhole(t *trial) {
	created := time.Date(2026, 1, 7, 16, 30, 0, 123_999_999, time.FixedZone("CET", 3600))
	e := t.entry()
	e.Created = created
	e.Trace = queue.TraceContext{
		TraceID: [16]byte{1, 2, 15: 255}, SpanID: [8]byte{3, 7: 254}, Flags: 1,
		State: strings.Repeat("k=v,", 127) + "k=vv",
	}
	stored := t.accept(e)
	check := func(where string, got queue.Event, err error) {
		t.Helper()
		t.ok(where, err)
		equal(t, where+": the id", got.ID, stored.ID)
		equal(t, where+": the type", got.Type, e.Type)
		equal(t, where+": the feedback", got.Feedback, e.Feedback)
		equal(t, where+": the trace context", got.Trace, e.Trace)
		equal(t, where+": the time of acceptance, to the millisecond", got.Created, created.UTC().Truncate(time.Millisecond))
		equal(t, where+": the time in the id", got.ID.Created(), got.Created)
	}
	check("Enqueue", stored, nil)
	got, err := t.q.Event(t.ctx, stored.ID)
	check("Event", got, err)
	t.reopen()
	got, err = t.q.Event(t.ctx, stored.ID)
	check("Event, after reopening", got, err)
}

func eventIDsAreUniqueAndSorted(t *trial) {
	now := time.Now()
	var before queue.EventID
	check := func(created time.Time) {
		t.Helper()
		e := t.entry()
		e.Created = created
		id := t.accept(e).ID
		if bytes.Compare(before[:], id[:]) >= 0 || before.String() >= id.String() && !before.IsZero() {
			t.Fatalf("%s comes after %s and does not sort behind it", id, before)
		}
		before = id
	}
	for i := range 20 {
		check(now.Add(time.Duration(i/5) * time.Millisecond))
	}
	t.reopen()
	for range 5 {
		check(now.Add(3 * time.Millisecond))
	}
}

func eventIDsOfTwoStoresNeverMeet(t *trial) {
	e := t.entry()
	first := t.accept(e).ID
	t.take(t.h.Open(t.T))
	second := t.accept(e).ID
	if first == second {
		t.Fatalf("two stores both gave %s", first)
	}
	_, err := t.q.Event(t.ctx, first)
	t.is("Event, with an id of another store", err, queue.ErrNotFound)
	_, err = t.q.EventDeliveries(t.ctx, first)
	t.is("EventDeliveries, with an id of another store", err, queue.ErrNotFound)
}

func eventGoesToItsWebhooksOnly(t *trial) {
	a, b, c := t.webhook("a"), t.webhook("b"), t.webhook("c")
	e := t.enqueue(c, a)
	ds, err := t.q.EventDeliveries(t.ctx, e.ID)
	t.ok("EventDeliveries", err)
	sameIDs(t, "the event's deliveries", idsOf(ds, deliveryID), []queue.DeliveryID{{Event: e.ID, Webhook: a}, {Event: e.ID, Webhook: c}})
	for _, d := range ds {
		equal(t, "a new delivery's state", d.State, queue.Pending)
		equal(t, "its rung", d.Rung, 0)
		equal(t, "its attempts", d.Attempts, 0)
		equal(t, "its type", d.Type, e.Type)
		equal(t, "its feedback", d.Feedback, e.Feedback)
		equal(t, "its time of acceptance", d.Created, e.Created)
		equal(t, "its end", d.Ended, time.Time{})
		if d.Due.After(time.Now()) {
			t.Errorf("a new delivery is due at %v, want at once", d.Due)
		}
	}
	for _, w := range []queue.WebhookID{a, c} {
		lease := t.one(t.lane(w, 1))
		equal(t, "the delivery that is handed out", lease.Delivery.ID, queue.DeliveryID{Event: e.ID, Webhook: w})
		equal(t, "its event", lease.Event.ID, e.ID)
	}
	t.nothing(t.lane(b, 1), "the event was not for this webhook")
}

func duplicateWebhooksMakeOneDelivery(t *trial) {
	w := t.webhook("w")
	e := t.enqueue(w, w, w)
	ds, err := t.q.EventDeliveries(t.ctx, e.ID)
	t.ok("EventDeliveries", err)
	sameIDs(t, "the event's deliveries", idsOf(ds, deliveryID), []queue.DeliveryID{{Event: e.ID, Webhook: w}})
	l := t.lane(w, 8)
	t.leases(l, 1)
	t.nothing(l, "the event's one delivery is out")
	t.counts(w, queue.Counts{Pending: 1})
}

// deletedWebhooksGetNothing: a webhook may be deleted just before the event is
// enqueued.
func deletedWebhooksGetNothing(t *trial) {
	a, b := t.webhook("a"), t.webhook("b")
	_, err := t.q.DeleteWebhook(t.ctx, b, 1)
	t.ok("DeleteWebhook", err)
	e := t.enqueue(a, b)
	ds, err := t.q.EventDeliveries(t.ctx, e.ID)
	t.ok("EventDeliveries", err)
	sameIDs(t, "the event's deliveries", idsOf(ds, deliveryID), []queue.DeliveryID{{Event: e.ID, Webhook: a}})
	equal(t, "what is handed out", t.one(t.lane(a, 1)).Event.ID, e.ID)
}

// key returns an idempotency key.
func key(name string, hash byte) queue.Key { return queue.Key{Name: name, Hash: [32]byte{hash}} }

// replays checks that an entry is a repeat: it stores nothing and gets the first event.
func (t *trial) replays(when string, e queue.Entry, first queue.Event) {
	t.Helper()
	events := t.q.Stats(t.ctx).Events
	r, err := t.q.Enqueue(t.ctx, e)
	t.ok(when+", Enqueue of a repeat", err)
	equal(t, when+": Replayed", r.Replayed, true)
	equal(t, when+": the event", r.Event.ID, first.ID)
	equal(t, when+": its time", r.Event.Created, first.Created)
	if !bytes.Equal(r.Event.Body, first.Body) {
		t.Errorf("%s: the body is %.60q, want the first one's %.60q", when, r.Event.Body, first.Body)
	}
	equal(t, when+": the number of events", t.q.Stats(t.ctx).Events, events)
}

func enqueueIsIdempotentOnKey(t *trial) {
	w := t.webhook("w")
	e := t.entry(w)
	e.Key, e.Answer = key("k", 1), []byte("the first answer")
	first := t.accept(e)
	again := t.entry(w)
	again.Key = e.Key
	t.replays("at once", again, first)
	l := t.lane(w, 8)
	t.ok("Ack", t.one(l).Ack(made(200)))
	t.becomes(queue.DeliveryID{Event: first.ID, Webhook: w}, queue.Delivered)
	t.replays("after it was delivered", again, first)
	t.nothing(l, "there is one event, and it was delivered")
	t.reopen()
	t.replays("after reopening", again, first)
	again.Key = key("K", 1)
	if other := t.accept(again); other.ID == first.ID {
		t.Errorf("another key gives the same event")
	}
}

func keyWithAnotherBodyIsMismatch(t *trial) {
	e := t.entry()
	e.Key = key("k", 1)
	first := t.accept(e)
	other := t.entry()
	other.Key = key("k", 2)
	_, err := t.q.Enqueue(t.ctx, other)
	t.is("Enqueue of a held key with another hash", err, queue.ErrMismatch)
	sameIDs(t, "the events", idsOf(t.allEvents(queue.EventQuery{}), eventID), []queue.EventID{first.ID})
	_, err = t.q.Latest(t.ctx, other.Feedback)
	t.is("Latest of what was refused", err, queue.ErrNotFound)
	t.replays("after a mismatch", e, first)
}

func longKeysAreToldApart(t *trial) {
	long := strings.Repeat("n", queue.MaxKeyName-1)
	e := t.entry()
	e.Key = key(long+"x", 3)
	first := t.accept(e)
	t.replays("with a long key", e, first)
	other := t.entry()
	other.Key = key(long+"y", 3)
	if t.accept(other).ID == first.ID {
		t.Error("keys that differ in their last byte are taken for equal")
	}
	other.Key.Name += "y"
	if _, err := t.q.Enqueue(t.ctx, other); err == nil {
		t.Errorf("a key of %d bytes is taken", len(other.Key.Name))
	}
}

func concurrentEqualKeysMakeOneEvent(t *trial) {
	w := t.webhook("w")
	for round := range 5 {
		const callers = 32
		entries := make([]queue.Entry, callers)
		for i := range entries {
			entries[i] = t.entry(w)
			entries[i].Key = key(fmt.Sprintf("round %d", round), 1)
		}
		receipts, errs := t.atOnce(entries)
		first := 0
		for i, r := range receipts {
			t.ok("Enqueue", errs[i])
			if !r.Replayed {
				first++
			}
			equal(t, "the event of every caller", r.Event.ID, receipts[0].Event.ID)
		}
		equal(t, "how many callers were the first", first, 1)
		equal(t, "the number of events", t.q.Stats(t.ctx).Events, int64(round+1))
		t.counts(w, queue.Counts{Pending: int64(round + 1)})
	}
}

// atOnce enqueues all entries concurrently.
func (t *trial) atOnce(entries []queue.Entry) ([]queue.Receipt, []error) {
	receipts := make([]queue.Receipt, len(entries))
	errs := make([]error, len(entries))
	var wg sync.WaitGroup
	gate := make(chan struct{})
	for i, e := range entries {
		wg.Go(func() {
			<-gate
			receipts[i], errs[i] = t.q.Enqueue(t.ctx, e)
		})
	}
	close(gate)
	wg.Wait()
	return receipts, errs
}

func replacesIsCompareAndSwap(t *trial) {
	first := t.enqueue()
	update := func(replaces queue.EventID) (queue.Event, error) {
		e := t.update(first)
		e.Replaces = replaces
		r, err := t.q.Enqueue(t.ctx, e)
		return r.Event, err
	}
	second, err := update(first.ID)
	t.ok("Enqueue that replaces the latest", err)
	_, err = update(first.ID)
	t.is("Enqueue that replaces what was replaced", err, queue.ErrConflict)
	unknown := t.entry()
	unknown.Replaces = first.ID
	_, err = t.q.Enqueue(t.ctx, unknown)
	t.is("Enqueue that replaces an event of another feedback", err, queue.ErrConflict)
	t.reopen()
	_, err = update(first.ID)
	t.is("Enqueue that replaces what was replaced, after reopening", err, queue.ErrConflict)
	third, err := update(second.ID)
	t.ok("Enqueue that replaces the latest, after reopening", err)
	latest := t.latest(first.Feedback)
	equal(t, "the latest event", latest.ID, third.ID)
	all := t.allEvents(queue.EventQuery{})
	sameIDs(t, "the events", idsOf(all, eventID), []queue.EventID{third.ID, second.ID, first.ID})
	sameIDs(t, "what they replace", idsOf(all, func(e queue.Event) queue.EventID { return e.Replaces }), []queue.EventID{second.ID, first.ID, {}})
	equal(t, "what the latest event replaces", latest.Replaces, second.ID)
}

func concurrentReplacesLetOneWin(t *trial) {
	latest := t.enqueue()
	for range 5 {
		entries := make([]queue.Entry, 16)
		for i := range entries {
			entries[i] = t.update(latest)
		}
		receipts, errs := t.atOnce(entries)
		won := 0
		for i, err := range errs {
			if err == nil {
				won, latest = won+1, receipts[i].Event
				continue
			}
			t.is("Enqueue that came second", err, queue.ErrConflict)
		}
		equal(t, "how many replaced the same event", won, 1)
	}
	equal(t, "the number of events", t.q.Stats(t.ctx).Events, 6)
}

// replayWinsOverConflict: a repeat gets the first receipt, although the first
// submission itself changed the latest event.
func replayWinsOverConflict(t *trial) {
	created := t.enqueue()
	e := t.update(created)
	e.Key = key("k", 1)
	updated := t.accept(e)
	t.replays("though Replaces is stale", e, updated)
}

func cancelledEnqueueIsWholeOrNothing(t *trial) {
	w := t.webhook("w")
	var wg sync.WaitGroup
	var mu sync.Mutex
	stored := make(map[queue.EventID]bool)
	for i := range 40 {
		e := t.entry(w)
		ctx, cancel := context.WithTimeout(t.ctx, time.Duration(i)*50*time.Microsecond)
		wg.Go(func() {
			defer cancel()
			r, err := t.q.Enqueue(ctx, e)
			if err == nil {
				mu.Lock()
				stored[r.Event.ID] = true
				mu.Unlock()
			} else if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Enqueue with a context that ended: %v", err)
			}
		})
	}
	wg.Wait()
	t.reopen() // so that nothing is in flight any more
	events := t.allEvents(queue.EventQuery{})
	for _, e := range events {
		delete(stored, e.ID)
		d := t.delivery(queue.DeliveryID{Event: e.ID, Webhook: w})
		equal(t, "the state of its delivery", d.State, queue.Pending)
		equal(t, "the latest event of its feedback", t.latest(e.Feedback).ID, e.ID)
	}
	for id := range stored {
		t.Errorf("%s was acknowledged and is not stored", id)
	}
	equal(t, "the number of events", t.q.Stats(t.ctx).Events, int64(len(events)))
	t.counts(w, queue.Counts{Pending: int64(len(events))})
}
