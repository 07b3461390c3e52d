package relay

import (
	"context"
	"errors"
	"time"

	"github.com/userhero/relay/queue"
)

// eventBefore reports whether an earlier event of the same feedback still waits for the
// same webhook, and when to look again. It follows the events that each event replaces.
// Events that were not for this webhook are skipped; at the first that was, the search
// ends, because that one waited for those before it. (Order is not kept for redelivered
// events, or for those sent before the webhook kept order.)
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
			return time.Now().Add(laneRetry), true // unknown: keep the order
		}
		e, err := r.queue.Event(ctx, id)
		if errors.Is(err, queue.ErrNotFound) {
			return time.Time{}, false // removed by retention
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
	// deferOrdered is how long an event waits at least for an earlier one, in a webhook
	// that keeps order.
	deferOrdered = 100 * time.Millisecond
)
