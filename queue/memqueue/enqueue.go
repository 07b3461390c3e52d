package memqueue

import (
	"context"
	"errors"
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
	if err := e.Check(); err != nil {
		return queue.Receipt{}, err
	}
	if err := q.open(); err != nil {
		return queue.Receipt{}, err
	}
	defer q.mu.Unlock()
	q.commit()
	q.sweep()
	d := q.data
	// A repeat gets its receipt even if the feedback has changed since.
	if r, err := d.repeat(e.Key); !errors.Is(err, queue.ErrNotFound) {
		return r, err
	}
	held, ok := d.feedbacks[e.Feedback]
	switch {
	case d.erased[e.Feedback.Hash()]:
		return queue.Receipt{}, fmt.Errorf("%s: %w", e.Feedback, queue.ErrErased)
	case !e.Replaces.IsZero() && held.latest != e.Replaces:
		return queue.Receipt{}, fmt.Errorf("%s has another latest event than %s: %w", e.Feedback, e.Replaces, queue.ErrConflict)
	case !e.Replaces.IsZero() && d.event(held.latest).Redacted:
		return queue.Receipt{}, fmt.Errorf("%s: %w", e.Feedback, queue.ErrRedacted)
	case e.Replaces.IsZero() && ok && (e.Origin != held.origin || e.Origin == [32]byte{}):
		return queue.Receipt{}, fmt.Errorf("%s: %w", e.Feedback, queue.ErrExists)
	case e.Replaces.IsZero() && ok:
		d.bind(e.Key, held.latest, held.latest, held.answer)
		return queue.Receipt{Event: d.event(held.latest).Event, Replayed: true, Answer: held.answer}, nil
	case e.Body == nil:
		d.bind(e.Key, queue.EventID{}, held.latest, e.Answer)
		return queue.Receipt{Answer: e.Answer}, nil
	}

	if err := q.room(); err != nil {
		return queue.Receipt{}, err
	}
	d.seq++
	stored := &event{
		Event: queue.Event{
			Type: e.Type, Feedback: e.Feedback,
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
	if !e.Feedback.IsZero() {
		if !ok {
			held = feedback{origin: e.Origin, answer: e.Answer}
		}
		held.latest = stored.ID
		d.feedbacks[e.Feedback] = held
	}
	d.bind(e.Key, stored.ID, stored.ID, e.Answer)
	return queue.Receipt{Event: stored.Event, Answer: e.Answer}, nil
}

// Repeat implements queue.Queue.
func (q *Queue) Repeat(_ context.Context, k queue.Key) (queue.Receipt, error) {
	if err := q.open(); err != nil {
		return queue.Receipt{}, err
	}
	defer q.mu.Unlock()
	q.sweep()
	return q.data.repeat(k)
}

// repeat returns the receipt of the submission that bound a key.
func (d *data) repeat(k queue.Key) (queue.Receipt, error) {
	held, ok := d.keys[k.Name]
	switch {
	case !ok:
		return queue.Receipt{}, fmt.Errorf("idempotency key %q: %w", k.Name, queue.ErrNotFound)
	case held.hash != k.Hash:
		return queue.Receipt{}, queue.ErrMismatch
	case held.erased:
		return queue.Receipt{}, fmt.Errorf("the submission with this idempotency key: %w", queue.ErrErased)
	}
	r := queue.Receipt{Replayed: true, Answer: held.answer}
	if e := d.event(held.event); e != nil {
		r.Event = e.Event
	}
	return r, nil
}

// bind binds a key, so that repeats with it get a receipt. It ignores a key without a
// name. about is the event, or the one that the submission left as it was.
func (d *data) bind(k queue.Key, e, about queue.EventID, answer []byte) {
	if k.Name != "" {
		d.keys[k.Name] = heldKey{event: e, about: about, answer: answer, hash: k.Hash, expires: time.Now().Add(keyWindow)}
	}
}

func newDelivery(e *event, w queue.WebhookID) *delivery {
	return &delivery{Delivery: queue.Delivery{
		ID:   queue.DeliveryID{Event: e.ID, Webhook: w},
		Type: e.Type, Feedback: e.Feedback, Created: e.Created,
		State: queue.Pending,
	}}
}

// nearMax is the share of MaxDisk above which finished events are removed early.
const nearMax = 0.9

// sweep removes keys whose window has passed, and events and activities older than the
// retention. Near MaxDisk it also removes finished events, oldest first and no more
// than necessary.
func (q *Queue) sweep() {
	now, d := time.Now(), q.data
	q.swept = now
	if q.o.Retention > 0 {
		d.remove(func(e *event) bool { return q.expired(e, now) })
		d.activities = slices.DeleteFunc(d.activities, func(a queue.Activity) bool { return now.Sub(a.At) >= q.o.Retention })
	}
	if q.o.RedactAfter > 0 && q.o.Redact != nil {
		for _, e := range d.events {
			if !e.Redacted && !e.Feedback.IsZero() && q.ended(e, now, q.o.RedactAfter) {
				e.redact(q.o.Redact)
			}
		}
	}
	if most := int64(nearMax * float64(q.o.MaxDisk)); most > 0 {
		excess := d.size() - most
		d.remove(func(e *event) bool {
			gone := excess > 0 && !e.waits()
			if gone {
				excess -= int64(len(e.Body))
			}
			return gone
		})
	}
	for name, k := range d.keys {
		if !now.Before(k.expires) {
			delete(d.keys, name)
		}
	}
}

// remove removes the events that gone selects.
func (d *data) remove(gone func(*event) bool) {
	d.events = slices.DeleteFunc(d.events, func(e *event) bool {
		if !gone(e) {
			return false
		}
		if d.feedbacks[e.Feedback].latest == e.ID {
			delete(d.feedbacks, e.Feedback)
		}
		return true
	})
}

// size returns the total size of the events in bytes.
func (d *data) size() (n int64) {
	for _, e := range d.events {
		n += int64(len(e.Body))
	}
	return n
}

func (e *event) waits() bool {
	for _, d := range e.deliveries {
		if d.State.Waiting() {
			return true
		}
	}
	return false
}

// room returns queue.ErrFull if MaxDisk is reached.
func (q *Queue) room() error {
	if q.o.MaxDisk > 0 && q.data.size() >= q.o.MaxDisk {
		return fmt.Errorf("%w: the events have %d bytes", queue.ErrFull, q.data.size())
	}
	return nil
}

// expired reports whether retention may remove an event. The retention counts from the
// end of the last delivery. An event that waits is never removed, unless all webhooks
// it waits for are parked.
func (q *Queue) expired(e *event, now time.Time) bool { return q.ended(e, now, q.o.Retention) }

// ended reports whether an event has ended for so long.
func (q *Queue) ended(e *event, now time.Time, ago time.Duration) bool {
	end := e.Created
	for w, d := range e.deliveries {
		if d.State.Waiting() && (!q.data.webhooks[w].Expires || q.leased(w, e.ID)) {
			return false
		}
		if d.Ended.After(end) {
			end = d.Ended
		}
	}
	return now.Sub(end) >= ago
}

// redact makes the document anew and ends what waits for parked webhooks.
func (e *event) redact(document func([]byte) []byte) {
	e.Redacted, e.Body = true, document(e.Body)
	for _, d := range e.deliveries {
		if d.State.Waiting() {
			d.end(queue.Failed)
		}
		for i := range d.attempts {
			a := &d.attempts[i]
			a.RequestBody, a.ResponseBody, a.ResponseHeaders = nil, nil, nil
		}
	}
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
	if e.Redacted {
		return fmt.Errorf("delivery %s: %w", id, queue.ErrRedacted)
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
