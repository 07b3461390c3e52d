package memqueue

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/userhero/relay/queue"
)

// defaultInFlight is LaneOptions.MaxInFlight if it is 0.
const defaultInFlight = 8

// lookEvery is how often a waiting lane checks whether the machine has slept.
const lookEvery = 10 * time.Millisecond

// lane implements queue.Lane. It stores no order: it looks up the next delivery each
// time.
type lane struct {
	q       *Queue
	webhook queue.WebhookID
	most    int
	wake    chan struct{} // capacity 1: a delivery may be due, or a place free
	ended   chan struct{} // closed when the lane ends

	// Guarded by q.mu.
	leased map[queue.EventID]*queue.Lease
	// returned holds deliveries that were deferred and are due at once. They come
	// first, in this order.
	returned []queue.EventID
	retries  bool // which kind comes next if both are due
}

// Lane implements queue.Queue.
func (q *Queue) Lane(w queue.WebhookID, o queue.LaneOptions) (queue.Lane, error) {
	if err := q.open(); err != nil {
		return nil, err
	}
	defer q.mu.Unlock()
	if _, ok := q.data.webhooks[w]; !ok {
		return nil, fmt.Errorf("webhook %d: %w", w, queue.ErrNotFound)
	}
	if q.opened[w] != nil {
		return nil, fmt.Errorf("webhook %d has an open lane: %w", w, queue.ErrConflict)
	}
	if o.MaxInFlight <= 0 {
		o.MaxInFlight = defaultInFlight
	}
	l := &lane{
		q: q, webhook: w, most: o.MaxInFlight,
		wake:   make(chan struct{}, 1),
		ended:  make(chan struct{}),
		leased: make(map[queue.EventID]*queue.Lease),
	}
	q.opened[w] = l
	if q.lanes[w] == nil {
		q.lanes[w] = l
	}
	return l, nil
}

// Close implements queue.Lane.
func (l *lane) Close() error {
	l.q.mu.Lock()
	defer l.q.mu.Unlock()
	l.end()
	return nil
}

// Owned implements queue.Lane.
func (l *lane) Owned() bool {
	l.q.mu.Lock()
	defer l.q.mu.Unlock()
	return l.q.lanes[l.webhook] == l
}

// Sync implements queue.Lane.
func (l *lane) Sync(context.Context) error {
	if err := l.q.open(); err != nil {
		return err
	}
	defer l.q.mu.Unlock()
	if l.q.lanes[l.webhook] != l {
		return queue.ErrLeaseLost
	}
	l.q.commit()
	return nil
}

// end drops the leases and wakes Next.
func (l *lane) end() {
	if l.q.opened[l.webhook] != l {
		return
	}
	delete(l.q.opened, l.webhook)
	close(l.ended)
	if l.q.lanes[l.webhook] == l {
		l.pass()
	}
}

// pass lets the lane go to the relay that has opened it first, if there is another one.
func (l *lane) pass() {
	delete(l.q.lanes, l.webhook)
	for _, node := range l.q.nodes {
		if next := node.opened[l.webhook]; next != nil && next != l {
			l.q.lanes[l.webhook] = next
			next.signal()
			return
		}
	}
}

// signal wakes Next. The lane may be nil.
func (l *lane) signal() {
	if l == nil {
		return
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// forget removes a delivery from the returned ones. The lane may be nil.
func (l *lane) forget(id queue.EventID) {
	if l != nil {
		l.returned = slices.DeleteFunc(l.returned, func(r queue.EventID) bool { return r == id })
	}
}

// Next implements queue.Lane.
func (l *lane) Next(ctx context.Context, most int) ([]*queue.Lease, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		leases, due, err := l.take(max(most, 1))
		if err != nil || len(leases) > 0 {
			return leases, err
		}
		if err := l.sleep(ctx, due); err != nil {
			return nil, err
		}
	}
}

// sleep waits until something changes or due is reached. If due is zero, there is no
// time limit.
func (l *lane) sleep(ctx context.Context, due time.Time) error {
	var alarm <-chan time.Time
	if !due.IsZero() {
		wait := due.Sub(l.q.now())
		if l.q.o.Clock != nil {
			wait = min(wait, lookEvery)
		}
		timer := time.NewTimer(wait)
		defer timer.Stop()
		alarm = timer.C
	}
	select {
	case <-l.wake:
	case <-alarm:
	case <-l.ended: // take returns ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// take leases the due deliveries. If there are none, due is when the next one will be;
// zero means to wait until woken.
func (l *lane) take(most int) (leases []*queue.Lease, due time.Time, err error) {
	q := l.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.opened[l.webhook] != l {
		return nil, due, queue.ErrClosed
	}
	if q.lanes[l.webhook] != l {
		return nil, due, nil // another relay owns the lane
	}
	for now := q.now(); len(leases) < most && len(l.leased) < l.most; {
		e, again := l.pick(now)
		if e == nil {
			due = again
			break
		}
		lease := queue.NewLease(e.deliveries[l.webhook].Delivery, e.Event, l)
		l.leased[e.ID] = lease
		leases = append(leases, lease)
	}
	return leases, due, nil
}

// pick returns the next delivery: first the returned ones, then fresh ones and retries
// in turns. If there is none, due is when the first retry is due.
func (l *lane) pick(now time.Time) (next *event, due time.Time) {
	for len(l.returned) > 0 {
		id := l.returned[0]
		l.returned = l.returned[1:]
		if e := l.q.data.event(id); e != nil {
			return e, due
		}
	}
	var fresh, retry *event
	for _, e := range l.q.data.events {
		d := e.deliveries[l.webhook]
		switch {
		case d == nil || !d.State.Waiting() || l.leased[e.ID] != nil:
		case d.due.IsZero() && d.Rung == 0:
			if fresh == nil {
				fresh = e
			}
		case retry == nil || d.due.Before(retry.deliveries[l.webhook].due):
			retry = e
		}
	}
	if retry != nil && retry.deliveries[l.webhook].due.After(now) {
		due, retry = retry.deliveries[l.webhook].due, nil
	}
	switch {
	case retry != nil && (fresh == nil || l.retries):
		l.retries = false
		return retry, due
	case fresh != nil:
		l.retries = true
		return fresh, due
	}
	return nil, due
}

// Lost implements queue.Settler.
func (l *lane) Lost(lease *queue.Lease) bool {
	l.q.mu.Lock()
	defer l.q.mu.Unlock()
	return l.lost(lease)
}

// lost reports whether a lease is no longer valid. The caller holds q.mu.
func (l *lane) lost(lease *queue.Lease) bool {
	return l.q.lanes[l.webhook] != l || l.leased[lease.Delivery.ID.Event] != lease
}

// Settle implements queue.Settler for the lane's leases.
func (l *lane) Settle(lease *queue.Lease, s queue.Settlement) error {
	q := l.q
	q.mu.Lock()
	defer q.mu.Unlock()
	id := lease.Delivery.ID
	if l.lost(lease) {
		return queue.ErrLeaseLost
	}
	delete(l.leased, id.Event)
	defer l.signal()
	d := q.data.delivery(id)
	if d == nil {
		return nil // erased
	}
	if s.Kind == queue.SettleDefer && !s.At.After(time.Now()) {
		l.returned = append(l.returned, id.Event) // in its earlier place
		return nil
	}
	if q.o.LazySettles {
		before := *d
		before.attempts = slices.Clone(d.attempts)
		q.undo = append(q.undo, func(left *data) { *left.delivery(id) = before })
	}
	if s.Kind != queue.SettleDefer {
		d.Attempts++
		s.Attempt.Number = d.Attempts
		d.attempts = append(d.attempts, s.Attempt)
	}
	switch s.Kind {
	case queue.SettleAck:
		d.end(queue.Delivered)
	case queue.SettleDead:
		d.Rung++
		d.end(queue.Failed)
	case queue.SettleRetry:
		d.State = queue.Retrying
		d.Rung++
		d.wait(s.At, q.slept())
	case queue.SettleDefer:
		d.wait(s.At, q.slept())
	}
	return nil
}
