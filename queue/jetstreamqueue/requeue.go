package jetstreamqueue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/userhero/relay/queue"
)

// Requeue implements queue.Queue. If another relay is attempting the delivery, that relay
// loses its lease.
func (q *Queue) Requeue(ctx context.Context, id queue.DeliveryID, at time.Time) error {
	if err := q.isClosed(); err != nil {
		return err
	}
	e, err := q.storedEvent(ctx, id.Event)
	if err != nil {
		return err
	}
	if e.Redacted {
		return errRedacted(e, id.Webhook)
	}
	if _, ok := q.registry.get(id.Webhook); !ok {
		return fmt.Errorf("webhook %d: %w", id.Webhook, queue.ErrNotFound)
	}
	if !q.erased.begin(e.Feedback) {
		return fmt.Errorf("event %s: %w", id.Event, queue.ErrNotFound)
	}
	defer q.erased.end(e.Feedback)
	seq := id.Event.Seq()
	l := q.laneOf(id.Webhook)
	if l != nil {
		if err := l.hold(seq); err != nil {
			return fmt.Errorf("delivery %s: %w", id, err)
		}
	}
	r, err := q.requeue(ctx, id.Webhook, e, at)
	if l != nil {
		l.unhold(seq, r)
	}
	return err
}

// errRedacted wraps queue.ErrRedacted with the delivery.
func errRedacted(e *storedEvent, w queue.WebhookID) error {
	return fmt.Errorf("delivery %s: %w", queue.DeliveryID{Event: e.ID, Webhook: w}, queue.ErrRedacted)
}

// isRedacted returns an event if it is redacted, or is being redacted. Otherwise it returns
// nil. It reads nothing while events are not redacted at all.
func (q *Queue) isRedacted(ctx context.Context, seq uint64) (*storedEvent, error) {
	if !redacts(q.limit()) && q.ledger.firstRedacted() == 0 {
		return nil, nil //nolint:nilnil // no event is a result
	}
	e, err := q.redactedAt(ctx, seq)
	return e, ignoreNotFound(err)
}

// requeue writes a record that begins a new ladder.
func (q *Queue) requeue(ctx context.Context, w queue.WebhookID, e *storedEvent, at time.Time) (record, error) {
	seq := e.ID.Seq()
	for {
		before, err := q.readRecord(ctx, w, seq)
		head := recordHead{State: queue.Pending, Due: q.serverNanos(at), By: byRequeue, Was: before.State, Origin: before.Origin, Attempts: before.Attempts}
		switch {
		case errors.Is(err, queue.ErrNotFound):
			if redacted, err := q.isRedacted(ctx, seq); err != nil {
				return record{}, err
			} else if redacted != nil {
				return record{}, errRedacted(e, w)
			}
			c, _, err := q.readCursor(ctx, w)
			if err != nil {
				return record{}, err
			}
			switch {
			case !e.isFor(w):
				head.Origin = originNew
			case c.has(seq):
				head.Origin, head.Attempts = originDelivered, 1
			default:
				head.Origin = originFresh
			}
		case err != nil:
			return record{}, err
		case before.Closed:
			return record{}, errRedacted(e, w)
		}
		m := nats.NewMsg(q.names.record(w, seq))
		if err := setHead(m, headerRecord, head); err != nil {
			return record{}, err
		}
		stored, err := q.publish(ctx, m, after(before.seq))
		if errors.Is(err, errSequence) {
			continue
		}
		return record{head, stored}, err
	}
}

// readRecord reads the last record of a delivery from the leader.
func (q *Queue) readRecord(ctx context.Context, w queue.WebhookID, seq uint64) (r record, err error) {
	m, err := q.last(ctx, q.names.state(), q.names.record(w, seq))
	if err != nil {
		return r, err
	}
	r.seq = m.seq
	return r, m.head(headerRecord, &r.recordHead)
}
