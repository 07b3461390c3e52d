package memqueue

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/userhero/relay/queue"
)

// Event implements queue.Queue.
func (q *Queue) Event(_ context.Context, id queue.EventID) (queue.Event, error) {
	if err := q.look(); err != nil {
		return queue.Event{}, err
	}
	defer q.mu.Unlock()
	e, err := q.data.mustEvent(id)
	if err != nil {
		return queue.Event{}, err
	}
	return e.Event, nil
}

func (d *data) mustEvent(id queue.EventID) (*event, error) {
	if e := d.event(id); e != nil {
		return e, nil
	}
	return nil, fmt.Errorf("event %s: %w", id, queue.ErrNotFound)
}

// Latest implements queue.Queue.
func (q *Queue) Latest(_ context.Context, id queue.FeedbackID) (queue.Event, error) {
	if err := q.look(); err != nil {
		return queue.Event{}, err
	}
	defer q.mu.Unlock()
	held, ok := q.data.feedbacks[id]
	switch {
	case q.data.erased[id.Hash()]:
		return queue.Event{}, fmt.Errorf("%s: %w", id, queue.ErrErased)
	case !ok:
		return queue.Event{}, fmt.Errorf("%s: %w", id, queue.ErrNotFound)
	}
	return q.data.event(held.latest).Event, nil
}

// Projects implements queue.Queue.
func (q *Queue) Projects(_ context.Context, id string, limit int) ([]string, error) {
	if err := q.look(); err != nil {
		return nil, err
	}
	defer q.mu.Unlock()
	projects := []string{}
	for held := range q.data.feedbacks {
		if held.ID == id {
			projects = append(projects, held.Project)
		}
	}
	return projects[:min(limit, len(projects))], nil
}

// Delivery implements queue.Queue.
func (q *Queue) Delivery(_ context.Context, id queue.DeliveryID) (queue.Delivery, error) {
	if err := q.look(); err != nil {
		return queue.Delivery{}, err
	}
	defer q.mu.Unlock()
	d := q.data.delivery(id)
	if d == nil {
		return queue.Delivery{}, fmt.Errorf("delivery %s: %w", id, queue.ErrNotFound)
	}
	return d.Delivery, nil
}

// EventDeliveries implements queue.Queue.
func (q *Queue) EventDeliveries(_ context.Context, id queue.EventID) ([]queue.Delivery, error) {
	if err := q.look(); err != nil {
		return nil, err
	}
	defer q.mu.Unlock()
	e, err := q.data.mustEvent(id)
	if err != nil {
		return nil, err
	}
	list := make([]queue.Delivery, 0, len(e.deliveries))
	for _, w := range e.webhooks() {
		list = append(list, e.deliveries[w].Delivery)
	}
	return list, nil
}

func (e *event) webhooks() []queue.WebhookID { return slices.Sorted(maps.Keys(e.deliveries)) }

// Attempts implements queue.Queue.
func (q *Queue) Attempts(_ context.Context, id queue.DeliveryID) ([]queue.Attempt, error) {
	if err := q.look(); err != nil {
		return nil, err
	}
	defer q.mu.Unlock()
	d := q.data.delivery(id)
	if d == nil {
		return nil, fmt.Errorf("delivery %s: %w", id, queue.ErrNotFound)
	}
	return slices.Clone(d.attempts), nil
}

// Events implements queue.Queue.
func (q *Queue) Events(_ context.Context, want queue.EventQuery) (page queue.Page[queue.Event], err error) {
	from, err := queue.ParseCursor(want.Cursor)
	if err != nil {
		return page, err
	}
	if err := q.look(); err != nil {
		return page, err
	}
	defer q.mu.Unlock()
	for _, e := range slices.Backward(q.data.events) {
		if e.ID.Seq() > from.Seq || !want.Selects(&e.Event) || want.Match != nil && !want.Match(e.Body) {
			continue
		}
		if len(page.Items) == queue.PageSize(want.Limit) {
			page.Next = queue.Cursor{Seq: e.ID.Seq()}.String()
			break
		}
		page.Items = append(page.Items, e.Event)
	}
	return page, nil
}

// Deliveries implements queue.Queue.
func (q *Queue) Deliveries(_ context.Context, want queue.DeliveryQuery) (page queue.Page[queue.Delivery], err error) {
	from, err := queue.ParseCursor(want.Cursor)
	if err != nil {
		return page, err
	}
	if err := q.look(); err != nil {
		return page, err
	}
	defer q.mu.Unlock()
	for _, e := range slices.Backward(q.data.events) {
		if e.ID.Seq() > from.Seq || !want.Selects(&e.Event) {
			continue
		}
		for _, w := range e.webhooks() {
			d := e.deliveries[w]
			switch {
			case e.ID.Seq() == from.Seq && w < from.Webhook,
				want.Webhook != 0 && want.Webhook != w,
				len(want.States) > 0 && !slices.Contains(want.States, d.State):
				continue
			}
			if len(page.Items) == queue.PageSize(want.Limit) {
				page.Next = queue.Cursor{Seq: e.ID.Seq(), Webhook: w}.String()
				return page, nil
			}
			page.Items = append(page.Items, d.Delivery)
		}
	}
	return page, nil
}

// AppendActivity implements queue.Queue.
func (q *Queue) AppendActivity(_ context.Context, a queue.Activity) error {
	if err := q.open(); err != nil {
		return err
	}
	defer q.mu.Unlock()
	q.commit()
	d := q.data
	d.activity++
	a.At = a.At.Round(0).UTC()
	a.ID = fmt.Sprintf("act_%016x%08x", a.At.UnixNano(), d.activity)
	i, _ := slices.BinarySearchFunc(d.activities, a, byID)
	d.activities = slices.Insert(d.activities, i, a)
	return nil
}

func byID(a, b queue.Activity) int { return cmp.Compare(a.ID, b.ID) }

// Activities implements queue.Queue.
func (q *Queue) Activities(_ context.Context, limit int, cursor string) (page queue.Page[queue.Activity], err error) {
	if cursor != "" && !strings.HasPrefix(cursor, "act_") {
		return page, fmt.Errorf("%q is no cursor of this list: %w", cursor, queue.ErrNotFound)
	}
	if err := q.look(); err != nil {
		return page, err
	}
	defer q.mu.Unlock()
	for _, a := range slices.Backward(q.data.activities) {
		if cursor != "" && a.ID > cursor {
			continue
		}
		if len(page.Items) == queue.PageSize(limit) {
			page.Next = a.ID
			break
		}
		page.Items = append(page.Items, a)
	}
	return page, nil
}

// KeepCaught implements queue.Queue.
func (q *Queue) KeepCaught(_ context.Context, c queue.Caught) error {
	if err := q.open(); err != nil {
		return err
	}
	defer q.mu.Unlock()
	q.commit()
	d := q.data
	c.At = c.At.Truncate(time.Millisecond).UTC()
	i, _ := slices.BinarySearchFunc(d.caught, c, func(a, b queue.Caught) int { return a.At.Compare(b.At) })
	d.caught = slices.Insert(d.caught, i, c) // keep the order by time, whichever goroutine is first
	d.caught = d.caught[max(0, len(d.caught)-queue.MaxCaught):]
	return nil
}

// Caught implements queue.Queue.
func (q *Queue) Caught(context.Context) (all []queue.Caught, err error) {
	if err := q.look(); err != nil {
		return nil, err
	}
	defer q.mu.Unlock()
	for _, c := range slices.Backward(q.data.caught) {
		if time.Since(c.At) < queue.CaughtFor {
			all = append(all, c)
		}
	}
	return all, nil
}
