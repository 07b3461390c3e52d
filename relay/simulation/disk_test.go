package simulation

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

// disk stands between one process's relay and its engine: it is the tap that
// fills the ledger, and the disk that is slow, stalls, is full, and forgets.
type disk struct {
	queue.Queue // reading goes straight through
	w           *world
	ops         chan op
	dead        atomic.Bool
	quit        chan struct{}
	busy        atomic.Int64 // operations that wait for their commit
}

// op is something durable. It happens whether or not somebody still waits.
type op struct {
	do   func() error
	done chan error
}

// troubles are what the disk has for its owner; the world sets them.
type troubles struct {
	mu    sync.Mutex
	delay time.Duration // of each commit, at most
	stall time.Time     // nothing is committed until then
	full  bool
	rnd   *rand.Rand
}

func (t *troubles) set(delay, stall time.Duration, full bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.delay, t.stall, t.full = delay, time.Now().Add(stall), full
}

func (t *troubles) isFull() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.full
}

// wait is how long the next commit takes, before and after the moment when it
// is on disk.
func (t *troubles) wait() (before, after time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before = max(time.Until(t.stall), 0)
	if t.delay > 0 {
		before += time.Duration(t.rnd.Int64N(int64(t.delay)))
		after = time.Duration(t.rnd.Int64N(int64(t.delay)))
	}
	return before, after
}

func newDisk(w *world, q queue.Queue) *disk {
	d := &disk{Queue: q, w: w, ops: make(chan op, 8192), quit: make(chan struct{})}
	w.serving.Go(d.commit)
	return d
}

// die is the end of the process; twice is fine.
func (d *disk) die() {
	if d.dead.CompareAndSwap(false, true) {
		close(d.quit)
	}
}

// commit is the one writer.
func (d *disk) commit() {
	for {
		select {
		case o := <-d.ops:
			d.one(o)
		case <-d.quit:
			for {
				select {
				case o := <-d.ops:
					d.one(o)
				default:
					return
				}
			}
		}
	}
}

func (d *disk) one(o op) {
	defer d.busy.Add(-1)
	before, after := d.w.troubles.wait()
	d.rest(before)
	b := d.w.ledger
	b.mu.Lock()
	var err error
	if !d.dead.Load() {
		err = o.do()
	}
	b.mu.Unlock()
	d.rest(after)
	if d.dead.Load() {
		err = queue.ErrClosed // it may have happened; nobody hears of it
	}
	o.done <- err
}

func (d *disk) rest(t time.Duration) {
	if t <= 0 {
		return
	}
	select {
	case <-time.After(t):
	case <-d.quit:
	}
}

// write does something durable.
func (d *disk) write(ctx context.Context, do func() error) error {
	o := op{do: do, done: make(chan error, 1)}
	d.busy.Add(1)
	if d.dead.Load() {
		d.busy.Add(-1)
		return queue.ErrClosed
	}
	d.ops <- o
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (d *disk) Enqueue(ctx context.Context, e queue.Entry) (r queue.Receipt, err error) {
	b := d.w.ledger
	if d.dead.Load() {
		return r, queue.ErrClosed
	}
	if d.w.troubles.isFull() {
		return r, fmt.Errorf("simulated: %w", queue.ErrFull)
	}
	b.mu.Lock()
	must, may := b.wanting(e.Type, e.Body)
	for _, id := range e.Webhooks {
		if !may[id] && b.webhooks[id] != nil {
			b.faultLocked("%s of %s goes to webhook %d, which does not want it", e.Type, e.Feedback, id)
		}
		delete(must, id)
	}
	for id := range must {
		b.faultLocked("%s of %s does not go to webhook %d, which wants it", e.Type, e.Feedback, id)
	}
	b.mu.Unlock()
	var receipt queue.Receipt // the committer's until write has returned without an error
	err = d.write(ctx, func() error {
		var err error
		if receipt, err = d.Queue.Enqueue(context.WithoutCancel(ctx), e); err != nil {
			return err
		}
		if !receipt.Replayed {
			b.stored(receipt.Event, e.Webhooks)
		} else if b.events[receipt.Event.ID] == nil {
			b.faultLocked("a repeat is answered with %s, which nobody stored", receipt.Event.ID)
		}
		b.commit()
		return nil
	})
	if err == nil {
		r = receipt
	}
	return r, err
}

func (d *disk) Requeue(ctx context.Context, id queue.DeliveryID, at time.Time) error {
	return d.write(ctx, func() error {
		err := d.Queue.Requeue(context.WithoutCancel(ctx), id, at)
		if err == nil {
			d.w.ledger.requeued(id, at)
			d.w.ledger.commit()
		}
		return err
	})
}

func (d *disk) PutWebhook(ctx context.Context, w queue.Webhook) (stored queue.Webhook, err error) {
	var put queue.Webhook
	err = d.write(ctx, func() error {
		var err error
		if put, err = d.Queue.PutWebhook(context.WithoutCancel(ctx), w); err == nil {
			d.w.put(put)
			d.w.ledger.commit()
		}
		return err
	})
	if err == nil {
		stored = put
	}
	return stored, err
}

func (d *disk) DeleteWebhook(ctx context.Context, id queue.WebhookID, revision uint64) (int64, error) {
	var ended int64
	err := d.write(ctx, func() error {
		n, err := d.Queue.DeleteWebhook(context.WithoutCancel(ctx), id, revision)
		if err == nil {
			ended = n
			d.w.ledger.forgotten(id, n)
			d.w.ledger.commit()
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	return ended, nil
}

func (d *disk) AppendActivity(ctx context.Context, a queue.Activity) error {
	return d.write(ctx, func() error {
		err := d.Queue.AppendActivity(context.WithoutCancel(ctx), a)
		if err == nil {
			d.w.ledger.commit()
		}
		return err
	})
}

func (d *disk) Lane(w queue.WebhookID, o queue.LaneOptions) (queue.Lane, error) {
	l, err := d.Queue.Lane(w, o)
	if err != nil {
		return nil, err
	}
	return &lane{Lane: l, d: d, webhook: w}, nil
}

// lane is the tap on one lane.
type lane struct {
	queue.Lane
	d       *disk
	webhook queue.WebhookID
}

func (l *lane) Next(ctx context.Context, most int) ([]*queue.Lease, error) {
	leases, err := l.Lane.Next(ctx, most)
	if err != nil || l.d.dead.Load() {
		return nil, errors.Join(err, deadOrNil(l.d))
	}
	if len(leases) > most {
		l.d.w.ledger.fault("Next(%d) hands out %d", most, len(leases))
	}
	for i, inner := range leases {
		leases[i] = queue.NewLease(inner.Delivery, inner.Event, &settler{l.d, l.d.w.ledger.handOut(inner), inner})
	}
	return leases, nil
}

func deadOrNil(d *disk) error {
	if d.dead.Load() {
		return queue.ErrClosed
	}
	return nil
}

// settler is the tap on one lease.
type settler struct {
	d     *disk
	lease *lease // nil: one that should not be
	inner *queue.Lease
}

func (s *settler) Lost(*queue.Lease) bool { return s.inner.Lost() }

func (s *settler) Settle(_ *queue.Lease, what queue.Settlement) error {
	b := s.d.w.ledger
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.d.dead.Load() {
		return queue.ErrClosed
	}
	err := settle(s.inner, what)
	switch {
	case s.lease == nil:
	case err == nil:
		b.settled(s.lease, what)
	case !s.lease.of.webhook.deleted:
		b.faultLocked("settling %s: %v", s.lease.id, err)
	}
	return err
}

// settle settles a lease of the engine's as the relay has settled ours.
func settle(l *queue.Lease, s queue.Settlement) error {
	switch s.Kind {
	case queue.SettleAck:
		return l.Ack(s.Attempt)
	case queue.SettleRetry:
		return l.Retry(s.At, s.Attempt)
	case queue.SettleDead:
		return l.Dead(s.Attempt)
	}
	return l.Defer(s.At)
}
