package memqueue

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/userhero/relay/queue"
)

// Erase implements queue.Eraser.
func (q *Queue) Erase(ctx context.Context, ids []queue.FeedbackID) (queue.Erased, error) {
	if err := q.open(); err != nil {
		return queue.Erased{}, err
	}
	q.commit()
	sum, out := q.erase(ids)
	q.mu.Unlock()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for q.anyLeased(out) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return sum, fmt.Errorf("erasing feedback: all of it is removed, and an attempt is still in flight: %w", ctx.Err())
		}
	}
	return sum, nil
}

// erase removes feedbacks and returns the deliveries that are leased. The caller holds
// q.mu.
func (q *Queue) erase(ids []queue.FeedbackID) (sum queue.Erased, out []queue.DeliveryID) {
	d := q.data
	found := make(map[queue.FeedbackID]bool)
	gone := make(map[queue.EventID]bool)
	d.remove(func(e *event) bool {
		if !slices.Contains(ids, e.Feedback) || e.Feedback.IsZero() {
			return false
		}
		found[e.Feedback], gone[e.ID] = true, true
		sum.Events++
		for w, one := range e.deliveries {
			sum.Deliveries++
			sum.Attempts += int64(len(one.attempts))
			if one.State.Waiting() {
				sum.Waiting++
			}
			if q.leased(w, e.ID) {
				out = append(out, one.ID)
			}
			q.lanes[w].forget(e.ID)
		}
		return true
	})
	for id := range found {
		d.erased[id.Hash()] = true
		delete(d.feedbacks, id)
	}
	for name, k := range d.keys {
		if gone[k.about] {
			d.keys[name] = heldKey{hash: k.hash, expires: k.expires, erased: true}
			sum.Keys++
		}
	}
	sum.Feedbacks = int64(len(found))
	return sum, out
}

func (q *Queue) anyLeased(ids []queue.DeliveryID) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.ContainsFunc(ids, func(id queue.DeliveryID) bool { return q.leased(id.Webhook, id.Event) })
}

// Compact implements queue.Eraser: nothing is kept of what was removed.
func (q *Queue) Compact(context.Context) error {
	err := q.open()
	if err == nil {
		q.mu.Unlock()
	}
	return err
}
