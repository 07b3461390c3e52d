package queuetest

import (
	"errors"
	"fmt"
	"time"

	"github.com/userhero/relay/queue"
)

// inEveryState makes one delivery in each stored state. The retry is due in an hour.
func (t *trial) inEveryState(l queue.Lane, w queue.WebhookID) map[queue.State]queue.DeliveryID {
	t.Helper()
	ids := make(map[queue.State]queue.DeliveryID)
	for _, s := range settlements {
		t.enqueue(w)
		lease := t.one(l)
		t.ok(s.name, s.do(lease))
		ids[s.state] = lease.Delivery.ID
	}
	t.counts(w, queue.Counts{Pending: 1, Retrying: 1, Delivered: 1, Failed: 1})
	return ids
}

func requeueGivesFreshLadder(t *trial) {
	w := t.webhook("w")
	l := t.lane(w, 8)
	for state, id := range t.inEveryState(l, w) {
		before := t.delivery(id)
		t.requeue(id, time.Now())
		d := t.delivery(id)
		equal(t, fmt.Sprintf("the state of what was %s, requeued", state), d.State, queue.Pending)
		equal(t, "its rung", d.Rung, 0)
		equal(t, "its attempts", d.Attempts, before.Attempts)
		equal(t, "its end", d.Ended, time.Time{})
		if d.Due.After(time.Now().Add(5 * time.Millisecond)) {
			t.Errorf("what was %s and requeued for now is due in %v", state, time.Until(d.Due))
		}
		lease := t.one(l)
		equal(t, "what is handed out", lease.Delivery.ID, id)
		equal(t, "its rung", lease.Delivery.Rung, 0)
		equal(t, "its attempts", lease.Delivery.Attempts, before.Attempts)
		t.ok("Retry", lease.Retry(time.Now(), made(500)))
		lease = t.one(l)
		equal(t, "the rung after one failed attempt of the new ladder", lease.Delivery.Rung, 1)
		t.ok("Ack", lease.Ack(made(200)))
		d = t.becomes(id, queue.Delivered)
		equal(t, "the attempts over both ladders", d.Attempts, before.Attempts+2)
		as := t.attempts(id)
		equal(t, "how many attempts are kept", len(as), before.Attempts+2)
		for i, a := range as {
			equal(t, "the number of an attempt", a.Number, i+1)
		}
	}
	t.counts(w, queue.Counts{Delivered: 4})
}

func requeueIsNeverEarly(t *trial) {
	w := t.webhook("w")
	l := t.lane(w, 8)
	due := make(map[queue.DeliveryID]time.Time)
	for state, id := range t.inEveryState(l, w) {
		due[id] = time.Now().Add(time.Duration(50+20*int(state)) * time.Millisecond)
		t.requeue(id, due[id])
	}
	for range len(due) {
		lease := t.one(l)
		if early := time.Until(due[lease.Delivery.ID]); early > 0 {
			t.Errorf("a requeued delivery comes %v before it is due", early)
		}
		t.ok("Ack", lease.Ack(made(200)))
	}
	t.counts(w, queue.Counts{Delivered: 4})
}

// requeueMovesWhatWaits requeues deliveries that the lane has already read.
func requeueMovesWhatWaits(t *trial) {
	w := t.webhook("w")
	l := t.lane(w, 8)
	t.enqueue(w)
	first := t.one(l) // so that the lane has started
	fresh := t.enqueue(w)
	last := t.enqueue(w)
	t.requeue(queue.DeliveryID{Event: fresh.ID, Webhook: w}, time.Now().Add(time.Hour))
	lease := t.one(l)
	equal(t, "what comes after a fresh delivery was moved to later", lease.Event.ID, last.ID)
	t.ok("Ack", lease.Ack(made(200)))
	t.nothing(l, "what waits was moved to later")
	t.requeue(queue.DeliveryID{Event: fresh.ID, Webhook: w}, time.Now())
	lease = t.one(l)
	equal(t, "what comes after it was moved back", lease.Event.ID, fresh.ID)
	t.ok("Retry", lease.Retry(time.Now().Add(time.Hour), made(500)))
	t.requeue(lease.Delivery.ID, time.Now().Add(2*time.Hour))
	t.nothing(l, "the retry was moved to later still")
	t.requeue(lease.Delivery.ID, time.Time{})
	lease = t.one(l)
	equal(t, "what comes after the retry was moved to now", lease.Event.ID, fresh.ID)
	equal(t, "its rung", lease.Delivery.Rung, 0)
	t.ok("Ack", lease.Ack(made(200)))
	t.ok("Ack", first.Ack(made(200)))
	t.counts(w, queue.Counts{Delivered: 3})
	t.nothing(l, "all was delivered")
}

// zeroTimeIsAtOnce: a due time that is zero, long past or never reached hides no other
// delivery of its rung, also in a lane that is opened later.
func zeroTimeIsAtOnce(t *trial) {
	w := t.webhook("w")
	l := t.lane(w, 8)
	events := t.several(6, w)
	leases := t.leases(l, 4)
	t.ok("Retry at the zero time", leases[0].Retry(time.Time{}, made(500)))
	t.ok("Retry now", leases[1].Retry(time.Now(), made(500)))
	t.ok("Retry in the year 1", leases[2].Retry(time.Unix(-1<<33, 0), made(500)))
	t.ok("Retry in 1970", leases[3].Retry(time.Unix(1, 0), made(500)))
	for _, lease := range leases {
		t.becomes(lease.Delivery.ID, queue.Retrying)
	}
	t.ok("closing the lane", l.Close())
	t.requeue(queue.DeliveryID{Event: events[4].ID, Webhook: w}, time.Time{})
	t.requeue(queue.DeliveryID{Event: events[5].ID, Webhook: w}, time.Now())
	never := t.enqueue(w)
	t.requeue(queue.DeliveryID{Event: never.ID, Webhook: w}, time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC))
	for range 2 {
		l = t.lane(w, 8)
		got := make(map[queue.EventID]bool)
		for _, lease := range t.leases(l, len(events)) {
			got[lease.Event.ID] = true
			if d := lease.Delivery; d.Due.After(time.Now().Add(time.Minute)) {
				t.Errorf("what is due at once shows %s", d.Due)
			}
		}
		equal(t, "how many different deliveries come", len(got), len(events))
		t.nothing(l, "the last one is due in the year 9999")
		t.reopen()
	}
}

func requeueLeavesLeasedAlone(t *trial) {
	w := t.webhook("w")
	l := t.lane(w, 8)
	t.enqueue(w)
	lease := t.one(l)
	t.is("Requeue of a leased delivery", t.q.Requeue(t.ctx, lease.Delivery.ID, time.Now()), queue.ErrConflict)
	t.nothing(l, "the delivery is out already")
	t.ok("Ack of the lease", lease.Ack(made(200)))
	d := t.becomes(lease.Delivery.ID, queue.Delivered)
	equal(t, "its attempts", d.Attempts, 1)
	t.nothing(l, "the delivery was acknowledged")
}

func requeueMakesAMissingDelivery(t *trial) {
	a, b := t.webhook("a"), t.webhook("b")
	lb := t.lane(b, 8)
	e := t.enqueue(a)
	silent := t.enqueue()
	c := t.webhook("c") // created after the events
	for _, w := range []queue.WebhookID{c, b} {
		t.requeue(queue.DeliveryID{Event: e.ID, Webhook: w}, time.Now())
	}
	t.requeue(queue.DeliveryID{Event: silent.ID, Webhook: b}, time.Time{})
	ds, err := t.q.EventDeliveries(t.ctx, e.ID)
	t.ok("EventDeliveries", err)
	sameIDs(t, "the event's deliveries", idsOf(ds, deliveryID), []queue.DeliveryID{
		{Event: e.ID, Webhook: a}, {Event: e.ID, Webhook: b}, {Event: e.ID, Webhook: c},
	})
	t.counts(b, queue.Counts{Pending: 2})
	got := idsOf(t.leases(lb, 2), leasedEvent)
	if got[0] == silent.ID {
		got[0], got[1] = got[1], got[0]
	}
	sameIDs(t, "what is handed out", got, []queue.EventID{e.ID, silent.ID})
	lease := t.one(t.lane(c, 1))
	equal(t, "what is handed out to the youngest", lease.Event.ID, e.ID)
	equal(t, "its rung", lease.Delivery.Rung, 0)
	if string(lease.Event.Body) != string(e.Body) {
		t.Errorf("its body is %q, want %q", lease.Event.Body, e.Body)
	}
}

func requeueOfUnknownIsNotFound(t *trial) {
	w := t.webhook("w")
	e := t.enqueue(w)
	for what, id := range map[string]queue.DeliveryID{
		"of no event":                  {Webhook: w},
		"of an event of another store": {Event: t.foreign(), Webhook: w},
		"to no webhook":                {Event: e.ID, Webhook: w + 1},
	} {
		if err := t.q.Requeue(t.ctx, id, time.Now()); !errors.Is(err, queue.ErrNotFound) {
			t.Errorf("Requeue %s: got error %v, want %v", what, err, queue.ErrNotFound)
		}
	}
	t.counts(w, queue.Counts{Pending: 1})
}
