// Package memqueue is a queue in memory. It is the reference for other engines, and a
// queue for the tests of code that uses one.
//
// It promises what package queue promises, except that nothing survives the process;
// Crash simulates a killed process. It is written to be read, not to be fast: it has
// one mutex, plain maps and slices, and scans where an engine for production would keep
// an index. It starts no goroutine and uses only Now and timers within calls from
// package time. So under testing/synctest, days of retries take no time.
package memqueue

import (
	"cmp"
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

// keyWindow is how long an idempotency key is kept.
const keyWindow = 24 * time.Hour

// Options are the settings of a queue.
type Options struct {
	// Limits bound what is kept. A Retention of 0 keeps everything. Events are removed
	// when something is enqueued or read. The size of the queue is the size of its
	// bodies.
	queue.Limits
	// LazySettles makes settlements durable only with the next durable operation or
	// with Sync. A crash before that loses them, and their deliveries are handed out
	// again. Engines that write settlements with a later commit behave the same way.
	LazySettles bool
	// Clock reports how long the machine slept. A lane with a clock checks it
	// periodically. Default: none, as if the machine never slept. The queue does not
	// use the time of day, because its contents do not outlive the process.
	Clock queue.Clock
	// Shared allows other relays to join: see Join.
	Shared bool
}

// Queue is a queue in memory, or what one relay has of it; it implements queue.Queue.
type Queue struct {
	o    Options
	node string // empty if Options.Shared is not set
	*store

	// Guarded by store.mu.
	closed bool
	opened map[queue.WebhookID]*lane
	// undo holds functions that take back the settlements not yet durable, to be called
	// last first.
	undo []func(*data)
}

// store is what relays that have joined share.
type store struct {
	mu    sync.Mutex // guards everything below
	data  *data
	lanes map[queue.WebhookID]*lane // those that are owned
	nodes []*Queue                  // not closed, in the order in which they joined
	named int                       // how many have joined
	swept time.Time                 // time of the last sweep
	// watching and hearing are the calls of Watch and Hear.
	watching map[*listener[queue.WebhookID]]struct{}
	hearing  map[*listener[[]byte]]struct{}
}

var (
	_ queue.Queue   = (*Queue)(nil)
	_ queue.Limited = (*Queue)(nil)
	_ queue.Eraser  = (*Queue)(nil)
)

// SetLimits implements queue.Limited.
func (q *Queue) SetLimits(l queue.Limits) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.o.Limits = l
}

// data is what survives a crash.
type data struct {
	tag        uint32
	events     []*event // in order of acceptance
	seq        uint64   // of the newest event
	feedbacks  map[queue.FeedbackID]feedback
	keys       map[string]heldKey
	webhooks   map[queue.WebhookID]queue.Webhook
	webhook    queue.WebhookID // the highest assigned ID
	activities []queue.Activity
	activity   uint64 // number of activities ever recorded
	caught     []queue.Caught
	erased     map[[32]byte]bool // hashes of erased feedbacks
}

// event is one event with its deliveries.
type event struct {
	queue.Event
	deliveries map[queue.WebhookID]*delivery
}

// delivery has its own due time, on the clock of Queue.now. That of queue.Delivery is
// for readers and has no monotonic reading.
type delivery struct {
	queue.Delivery
	due      time.Time
	attempts []queue.Attempt
}

// feedback is the state of one feedback.
type feedback struct {
	latest queue.EventID
	origin [32]byte // hash of the submission that created it
	answer []byte   // response to that submission
}

type heldKey struct {
	event   queue.EventID // zero if the submission stored none
	about   queue.EventID // event, or the one that the submission left as it was
	erased  bool
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
		erased:    make(map[[32]byte]bool),
	})
}

func newQueue(o Options, d *data) *Queue {
	return join(o, &store{
		data: d, lanes: make(map[queue.WebhookID]*lane),
		watching: make(map[*listener[queue.WebhookID]]struct{}), hearing: make(map[*listener[[]byte]]struct{}),
	})
}

// Crash ends the queue like a killed process and returns a new one with exactly what
// was durable: no leases, and no settlements that were not yet committed. After Close,
// which commits all settlements, it opens the queue again. If other relays have joined,
// the new queue joins them.
func (q *Queue) Crash() *Queue {
	q.mu.Lock()
	defer q.mu.Unlock()
	left, others := q.data, len(q.nodes) > 1 || len(q.nodes) == 1 && q.nodes[0] != q
	if !others {
		left = q.data.clone()
	}
	for _, back := range slices.Backward(q.undo) {
		back(left)
	}
	q.end()
	if others {
		q.undo = nil
		return join(q.o, q.store)
	}
	return newQueue(q.o, left)
}

// Sync makes every settlement so far durable.
func (q *Queue) Sync() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.commit()
}

// commit makes all settlements durable.
func (q *Queue) commit() { q.undo = nil }

// end closes the queue and wakes all callers that wait for it.
func (q *Queue) end() {
	q.closed = true
	wake(q, q.watching)
	wake(q, q.hearing)
	q.nodes = slices.DeleteFunc(q.nodes, func(other *Queue) bool { return other == q })
	for _, l := range q.opened {
		l.end()
	}
}

// look locks the queue for reading. It first removes expired events, unless it did so
// within the last hundredth of the retention, or of what redaction waits for.
func (q *Queue) look() error {
	err := q.open()
	shortest := q.o.Retention
	if after := q.o.RedactAfter; after > 0 && (after < shortest || shortest == 0) {
		shortest = after
	}
	if err == nil && shortest > 0 && time.Since(q.swept) >= shortest/100 {
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

// Stats implements queue.Reader. The queue uses no disk.
func (q *Queue) Stats(context.Context) queue.Stats {
	if q.look() != nil {
		q.mu.Lock() // a closed queue can still be counted
	}
	defer q.mu.Unlock()
	st := queue.Stats{
		AsOf:     time.Now(),
		Shared:   q.node != "",
		Events:   int64(len(q.data.events)),
		Webhooks: make(map[queue.WebhookID]queue.WebhookStats),
		DiskFree: -1,
	}
	for id := range q.data.webhooks {
		st.Webhooks[id] = queue.WebhookStats{}
	}
	for _, l := range q.opened {
		if _, ok := st.Webhooks[l.webhook]; ok && st.Shared && q.lanes[l.webhook] == l {
			st.Webhooks[l.webhook] = queue.WebhookStats{Owned: true}
		}
	}
	now := q.now()
	for _, e := range q.data.events {
		for id, d := range e.deliveries {
			w, ok := st.Webhooks[id]
			if !ok {
				continue // the webhook was deleted
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

// leased reports whether a delivery is leased.
func (q *Queue) leased(w queue.WebhookID, id queue.EventID) bool {
	l := q.lanes[w]
	return l != nil && l.leased[id] != nil
}

// event returns the event with this id, or nil.
func (d *data) event(id queue.EventID) *event {
	i, ok := slices.BinarySearchFunc(d.events, id.Seq(), func(e *event, seq uint64) int { return cmp.Compare(e.ID.Seq(), seq) })
	if !ok || d.events[i].ID != id {
		return nil
	}
	return d.events[i]
}

// delivery returns the delivery with this id, or nil.
func (d *data) delivery(id queue.DeliveryID) *delivery {
	if e := d.event(id.Event); e != nil {
		return e.deliveries[id.Webhook]
	}
	return nil
}

// clone copies everything that may change. Bodies never change.
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
	c.erased = maps.Clone(d.erased)
	return &c
}

// wait sets the due time of a waiting delivery, by the runtime's clock; zero means at
// once. slept is how long the machine has slept so far.
func (d *delivery) wait(due time.Time, slept time.Duration) {
	d.due, d.Due = due, due
	if !due.IsZero() {
		d.due, d.Due = due.Add(slept), due.Round(0).UTC()
	}
}

// slept returns how long the machine was suspended since the queue was made.
func (q *Queue) slept() time.Duration {
	if q.o.Clock == nil {
		return 0
	}
	return q.o.Clock.Slept()
}

// now returns the runtime's time plus the time the machine slept.
func (q *Queue) now() time.Time { return time.Now().Add(q.slept()) }

// end ends a delivery now.
func (d *delivery) end(s queue.State) {
	d.State, d.Ended = s, time.Now().Round(0).UTC()
	d.wait(time.Time{}, 0)
}
