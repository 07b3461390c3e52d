// Package memqueue keeps a queue in memory: the reference that other engines
// are measured against, and a queue for tests of what is built on one.
//
// It promises what package queue promises, except that nothing outlives the
// process; Crash stands in for that. It is written to be read, not to be fast:
// one mutex, plain maps and slices, and a look at everything where an engine
// for production would keep an index. It starts no goroutine and uses nothing
// of package time but Now and timers within a call, so it runs under
// testing/synctest with days of ladder passing in no time.
package memqueue

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/userhero/relay/queue"
)

// keyWindow is how long an idempotency key is held.
const keyWindow = 24 * time.Hour

// Options say how the queue behaves.
type Options struct {
	// Limits bound what is kept; a Retention of 0 keeps everything. What may go goes
	// when something is enqueued or read. The queue's size is that of its bodies.
	queue.Limits
	// LazySettles makes settlements durable only with the next operation that
	// is, or with Sync: a crash before that loses them, and their deliveries are
	// handed out again. So do engines whose settlements ride in a later commit.
	LazySettles bool
	// Clock tells what the machine slept; a lane then looks at it every so often.
	// Default: none, as if it never did. Of the time of day the queue asks nothing:
	// what it holds does not outlive the process.
	Clock queue.Clock
}

// Queue is a queue in memory; it implements queue.Queue.
type Queue struct {
	o Options

	mu     sync.Mutex // guards everything below
	closed bool
	data   *data
	lanes  map[queue.WebhookID]*lane
	swept  time.Time // when sweep ran last
	// undo takes back, last first, the settlements that are not yet durable.
	undo []func(*data)
}

var (
	_ queue.Queue   = (*Queue)(nil)
	_ queue.Limited = (*Queue)(nil)
)

// SetLimits implements queue.Limited.
func (q *Queue) SetLimits(l queue.Limits) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.o.Limits = l
}

// data is what a crash leaves.
type data struct {
	tag        uint32
	events     []*event // in order of acceptance
	seq        uint64   // of the newest event ever
	feedbacks  map[queue.FeedbackID]feedback
	keys       map[string]heldKey
	webhooks   map[queue.WebhookID]queue.Webhook
	webhook    queue.WebhookID // the highest ever given
	activities []queue.Activity
	activity   uint64 // how many were ever recorded
	caught     []queue.Caught
}

// event is one event with its deliveries.
type event struct {
	queue.Event
	deliveries map[queue.WebhookID]*delivery
}

// delivery keeps its own due time, by Queue.now: that of queue.Delivery is for
// readers and has no monotonic reading.
type delivery struct {
	queue.Delivery
	due      time.Time
	attempts []queue.Attempt
}

// feedback is what is known of one feedback.
type feedback struct {
	latest queue.EventID
	origin [32]byte // of the submission that created it
	answer []byte   // to that submission
}

type heldKey struct {
	event   queue.EventID // zero if the submission stored none
	answer  []byte
	hash    [32]byte
	expires time.Time
}

// New returns an empty queue.
func New(o Options) *Queue {
	var tag [4]byte
	_, _ = rand.Read(tag[:]) // never fails
	return newQueue(o, &data{
		tag:       binary.BigEndian.Uint32(tag[:]),
		feedbacks: make(map[queue.FeedbackID]feedback),
		keys:      make(map[string]heldKey),
		webhooks:  make(map[queue.WebhookID]queue.Webhook),
	})
}

func newQueue(o Options, d *data) *Queue {
	return &Queue{o: o, data: d, lanes: make(map[queue.WebhookID]*lane)}
}

// Crash ends the queue as a killed process would, and returns a new one that
// holds exactly what was durable: without leases, and without the settlements
// that were not yet committed. After Close, which commits them, it is how a
// queue is opened again.
func (q *Queue) Crash() *Queue {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.end()
	left := q.data.clone()
	for _, back := range slices.Backward(q.undo) {
		back(left)
	}
	return newQueue(q.o, left)
}

// Sync makes every settlement so far durable.
func (q *Queue) Sync() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.commit()
}

// commit makes what was settled durable.
func (q *Queue) commit() { q.undo = nil }

// end closes the queue and wakes everybody who waits for it.
func (q *Queue) end() {
	q.closed = true
	for _, l := range q.lanes {
		l.end()
	}
}

// look is open for a method that shows what is kept: what has expired is gone, a
// hundredth of the retention later at the latest.
func (q *Queue) look() error {
	err := q.open()
	if err == nil && q.o.Retention > 0 && time.Since(q.swept) >= q.o.Retention/100 {
		q.sweep()
	}
	return err
}

// open locks the queue, unless it is closed.
func (q *Queue) open() error {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return queue.ErrClosed
	}
	return nil
}

// Close implements queue.Queue.
func (q *Queue) Close(context.Context) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.commit()
		q.end()
	}
	return nil
}

// Health implements queue.Queue.
func (q *Queue) Health() error {
	if err := q.look(); err != nil {
		return fmt.Errorf("the queue takes no events: %w", err)
	}
	defer q.mu.Unlock()
	return q.room()
}

// Stats implements queue.Queue. Nothing of it is on a disk.
func (q *Queue) Stats() queue.Stats {
	if q.look() != nil {
		q.mu.Lock() // what a closed queue held can still be counted
	}
	defer q.mu.Unlock()
	st := queue.Stats{
		Events:   int64(len(q.data.events)),
		Webhooks: make(map[queue.WebhookID]queue.WebhookStats),
		DiskFree: -1,
	}
	for id := range q.data.webhooks {
		st.Webhooks[id] = queue.WebhookStats{}
	}
	now := q.now()
	for _, e := range q.data.events {
		for id, d := range e.deliveries {
			w, ok := st.Webhooks[id]
			if !ok {
				continue // deleted since
			}
			w.Count(d.State, 1)
			since := d.due
			if since.IsZero() {
				since = e.Created
			}
			if d.State.Waiting() && !d.due.After(now) && !q.leased(id, e.ID) &&
				(w.OldestDue.IsZero() || since.Before(w.OldestDue)) {
				if since = since.Round(0).UTC(); !d.due.IsZero() {
					since = d.Due
				}
				w.OldestDue = since
			}
			st.Webhooks[id] = w
		}
	}
	return st
}

// leased reports whether a delivery is out.
func (q *Queue) leased(w queue.WebhookID, id queue.EventID) bool {
	l := q.lanes[w]
	return l != nil && l.leased[id] != nil
}

// event finds an event by its whole id; nil is none.
func (d *data) event(id queue.EventID) *event {
	i, ok := slices.BinarySearchFunc(d.events, id.Seq(), func(e *event, seq uint64) int {
		switch at := e.ID.Seq(); {
		case at < seq:
			return -1
		case at > seq:
			return 1
		}
		return 0
	})
	if !ok || d.events[i].ID != id {
		return nil
	}
	return d.events[i]
}

// delivery finds a delivery by its id; nil is none.
func (d *data) delivery(id queue.DeliveryID) *delivery {
	if e := d.event(id.Event); e != nil {
		return e.deliveries[id.Webhook]
	}
	return nil
}

// clone copies what may change. Bodies never do.
func (d *data) clone() *data {
	c := *d
	c.events = make([]*event, len(d.events))
	for i, e := range d.events {
		c.events[i] = &event{Event: e.Event, deliveries: make(map[queue.WebhookID]*delivery, len(e.deliveries))}
		for id, one := range e.deliveries {
			copied := *one
			copied.attempts = slices.Clone(one.attempts)
			c.events[i].deliveries[id] = &copied
		}
	}
	c.feedbacks = maps.Clone(d.feedbacks)
	c.keys = maps.Clone(d.keys)
	c.webhooks = maps.Clone(d.webhooks)
	c.activities = slices.Clone(d.activities)
	c.caught = slices.Clone(d.caught)
	return &c
}

// wait gives a waiting delivery its due time, by the runtime's clock; zero is at
// once. Slept is what the machine has slept so far.
func (d *delivery) wait(due time.Time, slept time.Duration) {
	d.due, d.Due = due, due
	if !due.IsZero() {
		d.due, d.Due = due.Add(slept), due.Round(0).UTC()
	}
}

// slept is for how long the machine was suspended since the queue was made.
func (q *Queue) slept() time.Duration {
	if q.o.Clock == nil {
		return 0
	}
	return q.o.Clock.Slept()
}

// now is the runtime's clock and what it slept through.
func (q *Queue) now() time.Time { return time.Now().Add(q.slept()) }

// end ends a delivery now.
func (d *delivery) end(s queue.State) {
	d.State, d.Ended = s, time.Now().Round(0).UTC()
	d.wait(time.Time{}, 0)
}
