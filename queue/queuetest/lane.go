package queuetest

import (
	"context"
	"sync"
	"time"

	"github.com/userhero/relay/queue"
)

func laneOpensOnce(t *trial) {
	w := t.webhook("w")
	l := t.lane(w, 1)
	_, err := t.q.Lane(w, queue.LaneOptions{})
	t.is("opening a lane twice", err, queue.ErrConflict)
	_, err = t.q.Lane(w+1, queue.LaneOptions{})
	t.is("opening the lane of no webhook", err, queue.ErrNotFound)
	t.ok("closing the lane", l.Close())
	t.ok("closing it twice", l.Close())
	again := t.lane(w, 1)
	t.ok("closing the old lane once more", l.Close())
	e := t.enqueue(w)
	equal(t, "what the new lane hands out", t.one(again).Event.ID, e.ID)
}

func unopenedLaneKeepsDeliveriesWaiting(t *trial) {
	a, b := t.webhook("a"), t.webhook("b")
	events := t.several(10, a, b)
	la := t.lane(a, 10)
	for _, lease := range t.leases(la, 10) {
		t.ok("Ack", lease.Ack(made(200)))
	}
	t.counts(a, queue.Counts{Delivered: 10})
	t.counts(b, queue.Counts{Pending: 10})
	sameIDs(t, "what the other lane hands out, once it is opened",
		idsOf(t.leases(t.lane(b, 10), 10), leasedEvent), idsOf(events, eventID))
}

// waiting calls Next in a goroutine and returns a channel for its result.
func (t *trial) waiting(ctx context.Context, l queue.Lane) <-chan answer {
	answers := make(chan answer, 1)
	go func() {
		leases, err := l.Next(ctx, 4)
		answers <- answer{leases, err}
	}()
	// The test cannot see whether Next waits, so it gives Next some time.
	time.Sleep(moment / 10)
	return answers
}

type answer struct {
	leases []*queue.Lease
	err    error
}

// answered returns the result, which must come soon.
func (t *trial) answered(answers <-chan answer, after string) answer {
	t.Helper()
	select {
	case a := <-answers:
		return a
	case <-time.After(t.h.Patience):
		t.Fatalf("Next still waits %v after %s", t.h.Patience, after)
		return answer{}
	}
}

func nextWaitsForWork(t *trial) {
	w := t.webhook("w")
	l := t.lane(w, 1)
	t.nothing(l, "nothing was enqueued")
	answers := t.waiting(t.ctx, l)
	e := t.enqueue(w)
	a := t.answered(answers, "Enqueue")
	t.ok("Next", a.err)
	equal(t, "what was handed out", a.leases[0].Event.ID, e.ID)

	answers = t.waiting(t.ctx, l)
	other := t.enqueue(w) // no place is free
	t.ok("Ack", a.leases[0].Ack(made(200)))
	a = t.answered(answers, "a place became free")
	t.ok("Next", a.err)
	equal(t, "what was handed out", a.leases[0].Event.ID, other.ID)

	answers = t.waiting(t.ctx, l)
	t.ok("Retry", a.leases[0].Retry(time.Now().Add(50*time.Millisecond), made(500)))
	a = t.answered(answers, "a retry became due")
	t.ok("Next", a.err)
	equal(t, "what was handed out", a.leases[0].Event.ID, other.ID)
	t.ok("Dead", a.leases[0].Dead(made(500)))

	answers = t.waiting(t.ctx, l)
	t.requeue(queue.DeliveryID{Event: e.ID, Webhook: w}, time.Now())
	a = t.answered(answers, "Requeue")
	t.ok("Next", a.err)
	equal(t, "what was handed out", a.leases[0].Event.ID, e.ID)
}

func nextHonoursMax(t *trial) {
	w := t.webhook("w")
	t.several(10, w)
	l := t.lane(w, 10)
	for _, most := range []int{1, 3, 2} {
		t.next(l, most) // checks the order
	}
}

func nextReturnsTheContextsError(t *trial) {
	l := t.lane(t.webhook("w"), 1)
	ctx, cancel := context.WithCancel(t.ctx)
	answers := t.waiting(ctx, l)
	cancel()
	a := t.answered(answers, "its context was cancelled")
	t.is("Next", a.err, context.Canceled)
	_, err := l.Next(ctx, 1)
	t.is("Next with a cancelled context", err, context.Canceled)
}

func closeWakesNext(t *trial) {
	a, b := t.webhook("a"), t.webhook("b")
	la, lb := t.lane(a, 1), t.lane(b, 1)
	// One of the two has a retry that is due much later.
	t.enqueue(b)
	t.ok("Retry", t.one(lb).Retry(time.Now().Add(time.Hour), made(500)))
	fromLane, fromQueue := t.waiting(t.ctx, la), t.waiting(t.ctx, lb)
	t.ok("closing the lane", la.Close())
	t.is("Next", t.answered(fromLane, "its lane was closed").err, queue.ErrClosed)
	_, err := la.Next(t.ctx, 1)
	t.is("Next of a closed lane", err, queue.ErrClosed)
	t.ok("closing the queue", t.q.Close(t.ctx))
	t.is("Next", t.answered(fromQueue, "its queue was closed").err, queue.ErrClosed)
	_, err = lb.Next(t.ctx, 1)
	t.is("Next after the queue was closed", err, queue.ErrClosed)
	t.ok("closing a lane of a closed queue", lb.Close())
}

func maxInFlightIsABound(t *trial) {
	w := t.webhook("w")
	t.several(12, w)
	l := t.lane(w, 3)
	out := t.leases(l, 3)
	later := time.Now().Add(time.Hour)
	for _, settle := range []func(*queue.Lease) error{
		func(l *queue.Lease) error { return l.Ack(made(200)) },
		func(l *queue.Lease) error { return l.Retry(later, made(500)) },
		func(l *queue.Lease) error { return l.Dead(made(500)) },
		func(l *queue.Lease) error { return l.Defer(later) },
		func(l *queue.Lease) error { return l.Defer(time.Time{}) },
	} {
		t.nothing(l, "three leases are out and three is the bound")
		t.ok("settling", settle(out[0]))
		out = append(out[1:], t.one(l))
	}
	t.nothing(l, "three leases are out and three is the bound")
}

func maxInFlightIsEightByDefault(t *trial) {
	w := t.webhook("w")
	t.several(10, w)
	l, err := t.q.Lane(w, queue.LaneOptions{})
	t.ok("Lane", err)
	t.leases(l, 8)
	t.nothing(l, "eight leases are out and eight is the default bound")
}

// freshComeInOrderOfAcceptance enqueues more than an engine keeps in memory for a lane.
func freshComeInOrderOfAcceptance(t *trial) {
	const waiting, meanwhile = 1200, 600
	w, other := t.webhook("w"), t.webhook("other")
	store := func(n int) {
		t.Helper()
		entries := make([]queue.Entry, n)
		for i := range entries {
			// Events of other webhooks lie between.
			if i%3 == 0 {
				entries[i] = t.entry(other)
			} else {
				entries[i] = t.entry(w, other)
			}
		}
		_, errs := t.atOnce(entries)
		for _, err := range errs {
			t.ok("Enqueue", err)
		}
	}
	l := t.lane(w, 64)
	var got []queue.EventID
	takeUntil := func(n int) {
		t.Helper()
		for len(got) < n {
			for _, lease := range t.next(l, min(16, n-len(got))) {
				got = append(got, lease.Event.ID)
				t.ok("Ack", lease.Ack(made(200)))
			}
		}
	}
	store(waiting)
	takeUntil(waiting / 4)
	store(meanwhile)
	takeUntil((waiting + meanwhile) * 2 / 3)
	var want []queue.EventID
	for _, d := range reversed(t.allDeliveries(queue.DeliveryQuery{Webhook: w, Limit: 1000})) {
		want = append(want, d.ID.Event)
	}
	sameIDs(t, "what came out, against the order of acceptance", got, want)
	t.nothing(l, "all were delivered")
	t.counts(w, queue.Counts{Delivered: int64(len(want))})
}

// retriesComeByDueTime: retries come by due time, whatever their rung and the order in
// which they were settled.
func retriesComeByDueTime(t *trial) {
	w := t.webhook("w")
	const n = 12
	t.several(n, w)
	l := t.lane(w, n)
	leases := t.leases(l, n)
	// One third of them gets to the second rung first, another third to the third rung.
	for climb := range 2 {
		keep, up := leases[:n/3*(climb+1)], leases[n/3*(climb+1):]
		for _, lease := range up {
			t.ok("Retry", lease.Retry(time.Now(), made(500)))
		}
		leases = append(keep, t.leases(l, len(up))...)
	}
	start := time.Now().Add(200 * time.Millisecond)
	due := make(map[queue.EventID]time.Time, n)
	for i, lease := range leases {
		at := start.Add(time.Duration(i*7%n) * 3 * time.Millisecond)
		due[lease.Event.ID] = at
		t.ok("Retry", lease.Retry(at, made(500)))
	}
	t.counts(w, queue.Counts{Retrying: n})
	var last time.Time
	for range n {
		lease := t.one(l)
		at := due[lease.Event.ID]
		if at.Before(last) {
			t.Errorf("the delivery on rung %d due at %s comes after the one due at %s",
				lease.Delivery.Rung, at.Format(clockFormat), last.Format(clockFormat))
		}
		last = at
		t.ok("Ack", lease.Ack(made(200)))
	}
}

// clockFormat shows the differences between times of one test.
const clockFormat = "05.000000"

// backlog makes n retries of a webhook that are all due.
func (t *trial) backlog(l queue.Lane, w queue.WebhookID, n int) {
	t.Helper()
	t.several(n, w)
	due := time.Now().Add(100 * time.Millisecond)
	for _, lease := range t.leases(l, n) {
		t.ok("Retry", lease.Retry(due, made(500)))
	}
	t.eventually("the retries are stored", func() string {
		if c := t.q.Stats(t.ctx).Webhooks[w].Counts; c.Retrying != int64(n) {
			return "there are not yet as many"
		}
		return ""
	})
	t.until(due)
}

func freshIsNotBehindBacklog(t *trial) {
	w := t.webhook("w")
	l := t.lane(w, 64)
	t.backlog(l, w, 40)
	e := t.enqueue(w)
	t.counts(w, queue.Counts{Pending: 1, Retrying: 40}) // an engine may count it late
	// Retries and fresh deliveries take turns: the fresh one is among the first two, or
	// the third if a turn had begun before.
	for _, lease := range t.leases(l, 3) {
		if lease.Event.ID == e.ID {
			return
		}
	}
	t.Fatal("40 retries are due, and the fresh delivery is not among the first three")
}

func retryIsNotBehindFresh(t *trial) {
	w := t.webhook("w")
	l := t.lane(w, 64)
	t.backlog(l, w, 1)
	t.several(40, w)
	t.counts(w, queue.Counts{Pending: 40, Retrying: 1})
	for _, lease := range t.leases(l, 3) {
		if lease.Delivery.State == queue.Retrying {
			return
		}
	}
	t.Fatal("40 fresh deliveries wait, and the retry that is due is not among the first three")
}

func retryIsNeverEarly(t *trial) {
	w := t.webhook("w")
	const n = 40
	t.several(n, w)
	l := t.lane(w, n)
	due := make(map[queue.EventID]time.Time, n)
	check := func(lease *queue.Lease) {
		t.Helper()
		if early := time.Until(due[lease.Event.ID]); early > 0 {
			t.Errorf("a delivery on rung %d comes %v before it is due", lease.Delivery.Rung, early)
		}
		delete(due, lease.Event.ID)
	}
	for i, lease := range t.leases(l, n) {
		at := time.Now().Add(time.Duration(i*13%n) * 3 * time.Millisecond)
		due[lease.Event.ID] = at
		t.ok("Retry", lease.Retry(at, made(500)))
	}
	for len(due) > n/2 {
		lease := t.one(l)
		check(lease)
		t.ok("Ack", lease.Ack(made(200)))
	}
	for id := range due {
		d := t.becomes(queue.DeliveryID{Event: id, Webhook: w}, queue.Retrying)
		if off := d.Due.Sub(due[id]).Abs(); off > 5*time.Millisecond {
			t.Errorf("a retry asked for at %s is due at %s", due[id].Format(clockFormat), d.Due.Format(clockFormat))
		}
	}
	// The remaining ones come in time from the next lane too.
	for id, at := range due {
		if time.Until(at) < 0 {
			delete(due, id) // already due: nothing to check
		}
	}
	t.ok("closing the lane", l.Close())
	l = t.lane(w, n)
	for len(due) > 0 {
		if lease := t.one(l); !due[lease.Event.ID].IsZero() {
			check(lease)
		}
	}
}

func slowWebhookDelaysNobody(t *trial) {
	slow, fast, shut := t.webhook("slow"), t.webhook("fast"), t.webhook("shut")
	ls, lf := t.lane(slow, 2), t.lane(fast, 2)
	t.several(2, slow, fast, shut)
	t.leases(ls, 2) // never settled
	waits := t.waiting(t.ctx, ls)
	const n = 100
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for range n - 2 {
			if _, err := t.q.Enqueue(t.ctx, queue.Entry{
				Type: "feedback.created", Created: time.Now(), Body: []byte("{}"),
				Webhooks: []queue.WebhookID{slow, fast, shut},
			}); err != nil {
				t.Errorf("Enqueue: %v", err)
			}
		}
	})
	for got := 0; got < n; {
		for _, lease := range t.next(lf, 2) {
			got++
			t.ok("Ack", lease.Ack(made(200)))
		}
	}
	t.counts(fast, queue.Counts{Delivered: n})
	t.counts(slow, queue.Counts{Pending: n})
	t.counts(shut, queue.Counts{Pending: n})
	t.ok("closing the slow lane", ls.Close())
	t.is("Next of the slow lane", t.answered(waits, "its lane was closed").err, queue.ErrClosed)
}

func closedLaneLosesItsLeases(t *trial) {
	w := t.webhook("w")
	events := t.several(6, w)
	l := t.lane(w, 6)
	old := t.leases(l, 6)
	t.ok("Retry", old[5].Retry(time.Now().Add(time.Hour), made(500)))
	t.ok("closing the lane", l.Close())
	for i, settle := range settlements {
		equal(t, "Lost after the lane was closed", old[i].Lost(), true)
		t.is(settle.name+" after the lane was closed", settle.do(old[i]), queue.ErrLeaseLost)
	}
	l = t.lane(w, 6)
	again := t.leases(l, 5)
	sameIDs(t, "what the next lane hands out", idsOf(again, leasedEvent), idsOf(events[:5], eventID))
	for i, lease := range again {
		equal(t, "its attempts", lease.Delivery.Attempts, 0)
		equal(t, "Lost of the new lease", lease.Lost(), false)
		if i < len(settlements) {
			t.is(settlements[i].name+" of the old lease, while the new one is out", settlements[i].do(old[i]), queue.ErrLeaseLost)
		}
		t.ok("Ack of the new lease", lease.Ack(made(200)))
	}
	t.counts(w, queue.Counts{Delivered: 5, Retrying: 1})
}
