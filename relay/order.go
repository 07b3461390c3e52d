package relay

import (
	"context"
	"errors"
	"time"

	"github.com/userhero/relay/queue"
)

// eventBefore tells whether, of the same feedback, an event before this one
// still waits for the same webhook, and when to look again. Each event names the
// one it replaces. One that was for this webhook was held to the same rule, so
// the look back ends there (what was redelivered, or sent before the webhook kept
// order, is in no order any more); those that were not are stepped over.
func (r *Relay) eventBefore(ctx context.Context, lease *queue.Lease) (until time.Time, before bool) {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	for id := lease.Event.Replaces; !id.IsZero(); {
		d, err := r.queue.Delivery(ctx, queue.DeliveryID{Event: id, Webhook: lease.Delivery.ID.Webhook})
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
			return time.Now().Add(laneRetry), true // nobody knows: order is kept
		}
		e, err := r.queue.Event(ctx, id)
		if errors.Is(err, queue.ErrNotFound) {
			return time.Time{}, false // retention took it: what was before it is known no more
		}
		if err != nil {
			return time.Now().Add(laneRetry), true
		}
		id = e.Replaces
	}
	return time.Time{}, false
}

const (
	// laneRetry is how long a webhook waits after its lane failed.
	laneRetry = time.Second
	// deferOrdered is how long an event waits for one before it, in a webhook
	// that keeps order, where nobody knows when that is due.
	deferOrdered = 100 * time.Millisecond
)
