package memqueue

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/userhero/relay/queue"
)

// Enqueue implements queue.Queue. Webhooks that do not exist get no delivery.
func (q *Queue) Enqueue(ctx context.Context, e queue.Entry) (queue.Receipt, error) {
	if err := ctx.Err(); err != nil {
		return queue.Receipt{}, err
	}
	for _, k := range e.Keys {
		if k.Name == "" || len(k.Name) > maxKeyName {
			return queue.Receipt{}, fmt.Errorf("an idempotency key has 1 to %d bytes, not %d", maxKeyName, len(k.Name))
		}
	}
	if err := q.open(); err != nil {
		return queue.Receipt{}, err
	}
	defer q.mu.Unlock()
	q.commit()
	q.sweep()
	d := q.data
	// A repeat is answered even where the world has moved on since.
	for _, k := range e.Keys {
		held, ok := d.keys[k.Name]
		if !ok {
			continue
		}
		if held.hash != k.Hash {
			return queue.Receipt{}, queue.ErrMismatch
		}
		return queue.Receipt{Event: d.event(held.event).Event, Replayed: true}, nil
	}
	if !e.Replaces.IsZero() && d.latest[e.FeedbackID] != e.Replaces {
		return queue.Receipt{}, fmt.Errorf("feedback %q has another latest event than %s: %w", e.FeedbackID, e.Replaces, queue.ErrConflict)
	}

	d.seq++
	stored := &event{
		Event: queue.Event{
			Type: e.Type, FeedbackID: e.FeedbackID,
			Created: e.Created.UTC().Truncate(time.Millisecond),
			Trace:   e.Trace, Replaces: e.Replaces, Body: e.Body,
		},
		deliveries: make(map[queue.WebhookID]*delivery),
	}
	stored.ID = queue.NewEventID(stored.Created, d.tag, d.seq)
	for _, w := range e.Webhooks {
		if _, ok := d.webhooks[w]; ok && stored.deliveries[w] == nil {
			stored.deliveries[w] = newDelivery(stored, w)
			q.lanes[w].signal()
		}
	}
	d.events = append(d.events, stored)
	if e.FeedbackID != "" {
		d.latest[e.FeedbackID] = stored.ID
	}
	for _, k := range e.Keys {
		d.keys[k.Name] = heldKey{event: stored.ID, hash: k.Hash, expires: time.Now().Add(keyWindow)}
	}
	return queue.Receipt{Event: stored.Event}, nil
}

func newDelivery(e *event, w queue.WebhookID) *delivery {
	return &delivery{Delivery: queue.Delivery{
		ID:   queue.DeliveryID{Event: e.ID, Webhook: w},
		Type: e.Type, FeedbackID: e.FeedbackID, Created: e.Created,
		State: queue.Pending,
	}}
}

// sweep removes keys whose window has passed, and events that ended longer ago
// than the retention, with their keys.
func (q *Queue) sweep() {
	now, d := time.Now(), q.data
	if q.o.Retention > 0 {
		d.events = slices.DeleteFunc(d.events, func(e *event) bool {
			gone := q.expired(e, now)
			if gone && d.latest[e.FeedbackID] == e.ID {
				delete(d.latest, e.FeedbackID)
			}
			return gone
		})
	}
	for name, k := range d.keys {
		if !now.Before(k.expires) || d.event(k.event) == nil {
			delete(d.keys, name)
		}
	}
}

// expired tells whether retention takes an event: it counts from the end of the
// last delivery, and never takes what waits, unless that is parked.
func (q *Queue) expired(e *event, now time.Time) bool {
	end := e.Created
	for w, d := range e.deliveries {
		if d.State.Waiting() && (!q.data.webhooks[w].Expires || q.leased(w, e.ID)) {
			return false
		}
		if d.Ended.After(end) {
			end = d.Ended
		}
	}
	return now.Sub(end) >= q.o.Retention
}

// Requeue implements queue.Queue.
func (q *Queue) Requeue(_ context.Context, id queue.DeliveryID, at time.Time) error {
	if err := q.open(); err != nil {
		return err
	}
	defer q.mu.Unlock()
	e := q.data.event(id.Event)
	if e == nil {
		return fmt.Errorf("event %s: %w", id.Event, queue.ErrNotFound)
	}
	if _, ok := q.data.webhooks[id.Webhook]; !ok {
		return fmt.Errorf("webhook %d: %w", id.Webhook, queue.ErrNotFound)
	}
	if q.leased(id.Webhook, id.Event) {
		return fmt.Errorf("delivery %s is being attempted: %w", id, queue.ErrConflict)
	}
	q.commit()
	d := e.deliveries[id.Webhook]
	if d == nil {
		d = newDelivery(e, id.Webhook)
		e.deliveries[id.Webhook] = d
	}
	d.State, d.Rung, d.Ended = queue.Pending, 0, time.Time{}
	d.wait(at, q.slept())
	l := q.lanes[id.Webhook]
	l.forget(id.Event)
	l.signal()
	return nil
}
