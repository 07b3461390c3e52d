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
		return fmt.Errorf("delivery %s: %w", id, queue.ErrRedacted)
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

// requeue writes a record that begins a new ladder.
func (q *Queue) requeue(ctx context.Context, w queue.WebhookID, e *storedEvent, at time.Time) (record, error) {
	seq := e.ID.Seq()
	for {
		before, err := q.readRecord(ctx, w, seq)
		head := recordHead{State: queue.Pending, Due: q.serverNanos(at), By: "requeue", Was: before.State, Origin: before.Origin, Attempts: before.Attempts}
		switch {
		case errors.Is(err, queue.ErrNotFound):
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
