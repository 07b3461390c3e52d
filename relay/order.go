package relay

import (
	"context"
	"time"

	"github.com/userhero/relay/queue"
)

// eventBefore tells whether, of the same feedback, an event before this one
// still waits for the same webhook, and when to look again. Each event names the
// one it replaces, and that one was held to the same rule, so one look back is
// enough.
func (r *Relay) eventBefore(lease *queue.Lease) (until time.Time, before bool) {
	if lease.Event.Replaces.IsZero() {
		return time.Time{}, false
	}
	ctx, cancel := context.WithTimeout(r.attempts, storeTime)
	defer cancel()
	d, err := r.queue.Delivery(ctx, queue.DeliveryID{Event: lease.Event.Replaces, Webhook: lease.Delivery.ID.Webhook})
	if err != nil || !d.State.Waiting() {
		return time.Time{}, false // retention took it, it was for others, or it has ended
	}
	until = time.Now().Add(deferOrdered)
	if d.Due.After(until) {
		until = d.Due
	}
	return until, true
}
