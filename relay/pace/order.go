package pace

import (
	"context"
	"errors"
	"time"

	"github.com/userhero/relay/queue"
)

// Events is what EventBefore reads from a queue.
type Events interface {
	Event(context.Context, queue.EventID) (queue.Event, error)
	Delivery(context.Context, queue.DeliveryID) (queue.Delivery, error)
}

// EventBefore reports whether an earlier event of the same feedback still waits for the
// same webhook, and when to check again. It follows the events that each event replaces
// and skips those the webhook did not get. It stops at the first that the webhook got,
// because that event waited for the earlier ones. Order is not kept for redelivered
// events, or for events sent before the webhook was ordered.
func EventBefore(ctx context.Context, q Events, lease *queue.Lease) (until time.Time, before bool) {
	for id := lease.Event.Replaces; !id.IsZero(); {
		d, err := q.Delivery(ctx, queue.DeliveryID{Event: id, Webhook: lease.Delivery.ID.Webhook})
		switch {
		case err == nil && !d.State.Waiting():
			return time.Time{}, false
		case err == nil:
			until = time.Now().Add(deferOrdered)
			if d.Due.After(until) {
				until = d.Due
			}
			return until, true
		case !errors.Is(err, queue.ErrNotFound):
			return time.Now().Add(askAgain), true // if the state is unknown, keep the order
		}
		e, err := q.Event(ctx, id)
		if errors.Is(err, queue.ErrNotFound) {
			return time.Time{}, false // removed by retention
		}
		if err != nil {
			return time.Now().Add(askAgain), true
		}
		id = e.Replaces
	}
	return time.Time{}, false
}

const (
	// askAgain is how long an event waits if the queue cannot be read.
	askAgain = time.Second
	// deferOrdered is the shortest time an event waits for an earlier one if its
	// webhook is ordered.
	deferOrdered = 100 * time.Millisecond
)
