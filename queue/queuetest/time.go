package queuetest

import (
	"sync/atomic"
	"time"

	"github.com/userhero/relay/queue"
)

// Clock simulates a machine's clock that can be set and a machine that can sleep. It
// implements queue.Clock. The zero value shows the real time.
type Clock struct{ set, slept atomic.Int64 }

var _ queue.Clock = (*Clock)(nil)

// Wall implements queue.Clock.
func (c *Clock) Wall() time.Time { return time.Now().Round(0).Add(time.Duration(c.set.Load())) }

// Slept implements queue.Clock.
func (c *Clock) Slept() time.Duration { return time.Duration(c.slept.Load()) }

// Set changes the time of day, as an operator or a time server does.
func (c *Clock) Set(by time.Duration) { c.set.Add(int64(by)) }

// Sleep simulates a machine that sleeps: the time of day moves on, the runtime's clock
// does not.
func (c *Clock) Sleep(d time.Duration) {
	c.slept.Add(int64(d))
	c.Set(d)
}

const year = 365 * 24 * time.Hour

// steps are the amounts by which the time of day is changed and changed back.
var steps = map[string]time.Duration{"an hour": time.Hour, "a year": year}

// onClock returns a trial of the same promise on a queue with its own clock.
func (t *trial) onClock() (*trial, *Clock) {
	t.Helper()
	c := &Clock{}
	timed := *t
	timed.take(t.h.OpenOn(t.T, c))
	return &timed, c
}

// retrying makes a delivery that waits on its first rung until due.
func (t *trial) retrying(l queue.Lane, w queue.WebhookID, wait time.Duration) (id queue.DeliveryID, due time.Time) {
	t.Helper()
	e := t.enqueue(w)
	lease := t.one(l)
	equal(t, "what was handed out", lease.Event.ID, e.ID)
	due = time.Now().Add(wait)
	t.ok("Retry", lease.Retry(due, made(500)))
	t.becomes(lease.Delivery.ID, queue.Retrying)
	return lease.Delivery.ID, due
}

// comesAt takes the next lease. It must be that delivery and must not be early.
func (t *trial) comesAt(l queue.Lane, id queue.DeliveryID, due time.Time, after string) {
	t.Helper()
	lease := t.one(l)
	equal(t, "what was handed out after "+after, lease.Delivery.ID, id)
	if early := time.Until(due); early > 0 {
		t.Errorf("after %s a retry comes %v before it is due", after, early)
	}
	t.ok("Ack", lease.Ack(made(200)))
}

// clockSetBackDelaysNothing: a delivery waits exactly as long as requested, whether the
// time of day is set back while the queue is open or while it is closed.
func clockSetBackDelaysNothing(t *trial) {
	for name, step := range steps {
		timed, clock := t.onClock()
		w := timed.webhook("w")
		l := timed.lane(w, 4)
		id, due := timed.retrying(l, w, 300*time.Millisecond)
		clock.Set(-step)
		timed.comesAt(l, id, due, "the clock was set back by "+name)

		id, due = timed.retrying(l, w, 300*time.Millisecond)
		timed.ok("closing the lane", l.Close())
		timed.ok("Close", timed.q.Close(timed.ctx))
		clock.Set(-step)
		timed.take(timed.h.Reopen(timed.T, timed.q))
		timed.comesAt(timed.lane(w, 4), id, due, "the clock was set back by "+name+" while the queue was closed")
	}
}

// clockSetForwardHastensNothing: if the queue was open, it knows that no time has
// passed, also after it is opened again.
func clockSetForwardHastensNothing(t *trial) {
	for name, step := range steps {
		timed, clock := t.onClock()
		w := timed.webhook("w")
		l := timed.lane(w, 4)
		id, _ := timed.retrying(l, w, step/2)
		clock.Set(step)
		timed.nothing(l, "the clock was set forward by "+name)
		other := timed.enqueue(w) // the next commit records the clock's change
		timed.ok("Ack", timed.one(l).Ack(made(200)))
		timed.becomes(queue.DeliveryID{Event: other.ID, Webhook: w}, queue.Delivered)
		timed.reopen()
		timed.nothing(timed.lane(w, 4), "the clock was set forward by "+name+" before the queue was opened again")
		equal(timed, "the state of what waits", timed.delivery(id).State, queue.Retrying)
	}
}

// sleepIsTimeThatPasses: deliveries that became due while the machine slept come when
// it wakes.
func sleepIsTimeThatPasses(t *trial) {
	timed, clock := t.onClock()
	w := timed.webhook("w")
	l := timed.lane(w, 4)
	id, due := timed.retrying(l, w, 24*time.Hour)
	clock.Sleep(20 * time.Hour)
	timed.nothing(l, "it slept for 20 of 24 hours")
	waits := timed.waiting(timed.ctx, l)
	clock.Sleep(4 * time.Hour)
	a := timed.answered(waits, "the machine slept until then")
	timed.ok("Next", a.err)
	equal(timed, "what was handed out", a.leases[0].Delivery.ID, id)
	if shown := a.leases[0].Delivery.Due; shown.Sub(due).Abs() > time.Minute {
		t.Errorf("it was due at %s and shows %s", due.UTC(), shown)
	}
}
