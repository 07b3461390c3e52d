package badgerqueue

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/layout"
)

// settleOp stores the settlement of a lease. No caller waits for it.
type settleOp struct {
	webhook *webhookState
	ticket  ticket
	kind    queue.SettleKind
	due     int64  // for Retry and Defer, by the store's clock
	log     []byte // the attempt's log as it is stored; nil for Defer
}

// settleOps holds finished operations for reuse.
var settleOps = sync.Pool{New: func() any { return new(settleOp) }}

// Settle implements queue.Settler for the lane's leases.
func (l *lane) Settle(lease *queue.Lease, what queue.Settlement) error {
	s := l.s
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end()
	op, err := l.take(lease, what)
	if err != nil || op == nil {
		return err
	}
	select {
	case s.ops <- op:
		return nil
	case <-s.stop:
		return queue.ErrClosed
	}
}

// Lost implements queue.Settler.
func (l *lane) Lost(lease *queue.Lease) bool {
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	return l.lost(lease)
}

// lost reports whether a lease can no longer be settled. The caller holds h.mu.
func (l *lane) lost(lease *queue.Lease) bool {
	out := l.h.leased[lease.Event.ID.Seq()]
	return out == nil || out.lease != lease || out.settling
}

// take ends a lease in memory and returns the operation that stores its settlement. It
// returns nil if the delivery is due again at once: then nothing needs to be stored.
func (l *lane) take(lease *queue.Lease, what queue.Settlement) (*settleOp, error) {
	h, seq := l.h, lease.Event.ID.Seq()
	var log []byte
	if what.Kind != queue.SettleDefer {
		log = appendAttempt(make([]byte, 0, 384+len(what.Attempt.ResponseBody)+len(what.Attempt.RequestBody)), &what.Attempt, lease.Delivery.ID.String())
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	out := h.leased[seq]
	if l.lost(lease) {
		return nil, queue.ErrLeaseLost
	}
	l.out--
	defer l.signal()
	if what.Kind == queue.SettleDefer && !what.At.After(time.Now()) {
		out.ticket.again = true
		h.inbox.returned = append(h.inbox.returned, out.ticket)
		h.endLocked(seq)
		return nil, nil
	}
	out.settling = true
	op := settleOps.Get().(*settleOp)
	*op = settleOp{webhook: h, ticket: out.ticket, kind: what.Kind, log: log}
	if what.Kind == queue.SettleRetry || what.Kind == queue.SettleDefer {
		op.due = l.s.clock.At(what.At).UnixNano()
	}
	return op, nil
}

func (o *settleOp) cost() (entries, bytes int) { return 6, 768 + len(o.log) }

func (o *settleOp) lazy() bool { return true }

// done ignores the error: no caller waits, and a delivery whose settlement was not stored
// is attempted again after a restart.
func (o *settleOp) done(error) {
	*o = settleOp{}
	settleOps.Put(o)
}

func (o *settleOp) apply(b *batch) error {
	seq := o.ticket.seq
	b.settled = append(b.settled, inLane{o.webhook, seq})
	if b.webhook(o.webhook.id) != o.webhook {
		return nil // the webhook was deleted in the meantime
	}
	ds, err := b.deliveriesOf(seq)
	if err != nil {
		return b.s.report("settling a delivery", err)
	}
	d := ds.find(o.webhook.id)
	if d == nil || !d.state.Waiting() {
		return nil
	}
	to := *d
	switch o.kind {
	case queue.SettleAck:
		to.state, to.at = queue.Delivered, b.now.UnixNano()
	case queue.SettleDead:
		to.state, to.at = queue.Failed, b.now.UnixNano()
		to.rung++
	case queue.SettleRetry:
		to.state, to.at = queue.Retrying, o.due
		to.rung++
	case queue.SettleDefer:
		to.at = o.due
	}
	if o.kind != queue.SettleDefer {
		if err := b.attempted(seq, ds, &to, o.log); err != nil {
			return err
		}
	}
	if err := b.move(o.webhook, seq, d, to); err != nil {
		return err
	}
	b.touch(seq, ds)
	if !to.state.Waiting() {
		return b.ended(seq, ds)
	}
	return nil
}

// ended writes an X key for an event whose last delivery has ended, if the event is behind
// the sweep cursor, or if the sweep's current step may move the cursor past it.
func (b *batch) ended(seq uint64, ds deliveries) error {
	if seq >= max(b.stateOf.Swept, b.s.sweeping.Load()) || b.s.waits(ds, true) {
		return nil
	}
	return b.find(layout.Waiting{Due: b.now.UnixNano(), Seq: seq})
}

// find writes the X key by which the sweep finds an event.
func (b *batch) find(at layout.Waiting) error {
	b.stateOf.Ended = min(b.stateOf.Ended, at.Due)
	return b.set(layout.EndedKey(at), nil)
}

// Requeue implements queue.Queue.
func (s *Store) Requeue(ctx context.Context, id queue.DeliveryID, at time.Time) error {
	due := s.clock.At(at).UnixNano()
	return s.commit(ctx, 6, 4096, func(b *batch) error {
		seq := id.Event.Seq()
		e, err := s.getHeader(b.txn, seq)
		if err == nil && e.ID != id.Event {
			err = queue.ErrNotFound
		}
		if err != nil {
			return fmt.Errorf("delivery %s: %w", id, err)
		}
		if e.Redacted {
			return fmt.Errorf("delivery %s: %w", id, queue.ErrRedacted)
		}
		h := b.webhook(id.Webhook)
		if h == nil {
			return fmt.Errorf("webhook %d: %w", id.Webhook, queue.ErrNotFound)
		}
		if h.isLeased(seq) {
			return fmt.Errorf("delivery %s is being attempted: %w", id, queue.ErrConflict)
		}
		ds, err := b.deliveriesOf(seq)
		if err != nil {
			return err
		}
		d := ds.find(id.Webhook)
		stored := d != nil
		if !stored {
			ds = append(slices.Clone(ds), delivery{webhook: id.Webhook, state: queue.Pending})
			ds.sort()
			d = ds.find(id.Webhook)
			if len(ds) > maxDeliveries {
				return fmt.Errorf("%w: the event has %d deliveries, the most there may be", queue.ErrTooLarge, maxDeliveries)
			}
			b.count(h, queue.Pending, 1)
		}
		if d.fresh() && stored && due <= b.now.UnixNano() {
			return nil // it is due already, and keeps its place in the order
		}
		if d.state.Waiting() && stored {
			if !h.move(seq) {
				return fmt.Errorf("delivery %s is being attempted: %w", id, queue.ErrConflict)
			}
			b.moving = append(b.moving, inLane{h, seq})
		}
		to := delivery{webhook: d.webhook, state: queue.Pending, attempts: d.attempts, at: due, log: d.log}
		if err := b.move(h, seq, d, to); err != nil {
			return err
		}
		b.touch(seq, ds)
		return nil
	})
}
