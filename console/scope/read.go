package scope

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/userhero/relay/queue"
)

// lookTime bounds how long one page of a list is looked for. A store returns a page
// without rows after bounded work; within this time the next ones are read, so that a
// scope does not notice what others have stored.
const lookTime = time.Second

// Reader is what a scope shows of a queue. Its methods do what those of queue.Reader
// do, within the scope.
type Reader struct {
	view  *View
	queue queue.Queue
}

// Event returns one event.
func (r *Reader) Event(ctx context.Context, id queue.EventID) (queue.Event, error) {
	e, err := r.queue.Event(ctx, id)
	if err == nil && !r.view.hasProject(e.Feedback.Project) { // Promise 6: what is outside of the scope does not exist there.
		return queue.Event{}, fmt.Errorf("event %s: %w", id, queue.ErrNotFound)
	}
	return e, err
}

// Latest returns the newest event of a feedback.
func (r *Reader) Latest(ctx context.Context, id queue.FeedbackID) (queue.Event, error) {
	if !r.view.hasProject(id.Project) {
		return queue.Event{}, fmt.Errorf("%s: %w", id, queue.ErrNotFound)
	}
	return r.queue.Latest(ctx, id)
}

// Projects returns the projects that have a feedback with this id, at most
// limit of them.
func (r *Reader) Projects(ctx context.Context, id string, limit int) (projects []string, err error) {
	if !r.view.Scoped() {
		return r.queue.Projects(ctx, id, limit)
	}
	for _, project := range r.view.scope.Projects {
		if len(projects) == limit {
			break
		}
		_, err := r.queue.Latest(ctx, queue.FeedbackID{Project: project, ID: id})
		switch {
		case err == nil:
			projects = append(projects, project)
		case !errors.Is(err, queue.ErrNotFound) && !errors.Is(err, queue.ErrErased):
			return nil, err
		}
	}
	return projects, nil
}

// Events lists events, newest first.
func (r *Reader) Events(ctx context.Context, q queue.EventQuery) (queue.Page[queue.Event], error) {
	q.Projects = r.view.Projects()
	outside, err := r.outside(ctx, q)
	if err != nil {
		return queue.Page[queue.Event]{}, err
	}
	return pageOf(r.view, q.Cursor, func(cursor string) (queue.Page[queue.Event], error) {
		if outside {
			return queue.Page[queue.Event]{}, nil
		}
		q.Cursor = cursor
		return r.queue.Events(ctx, q)
	})
}

// outside reports whether a query is for a project or a feedback that the scope does
// not have. The store would look at everything to find nothing.
func (r *Reader) outside(ctx context.Context, q queue.EventQuery) (bool, error) {
	switch {
	case !r.view.Scoped():
		return false, nil
	case q.ProjectID != "" && !r.view.hasProject(q.ProjectID):
		return true, nil
	case q.FeedbackID != "":
		projects, err := r.Projects(ctx, q.FeedbackID, 1)
		return len(projects) == 0, err
	}
	return false, nil
}

// Deliveries lists deliveries, newest event first.
func (r *Reader) Deliveries(ctx context.Context, q queue.DeliveryQuery) (queue.Page[queue.Delivery], error) {
	q.Projects = r.view.Projects()
	return pageOf(r.view, q.Cursor, func(cursor string) (queue.Page[queue.Delivery], error) {
		q.Cursor = cursor
		page, err := r.queue.Deliveries(ctx, q)
		page.Items = slices.DeleteFunc(page.Items, func(d queue.Delivery) bool { return !r.view.hasWebhook(d.ID.Webhook) })
		return page, err
	})
}

// pageOf returns a page that has rows, unless it is the last one or is not found within
// lookTime. Its cursors are bound to the scope.
func pageOf[T any](v *View, cursor string, read func(cursor string) (queue.Page[T], error)) (queue.Page[T], error) {
	cursor, err := v.Unbind(cursor)
	if err != nil {
		return queue.Page[T]{}, err
	}
	for late := time.Now().Add(lookTime); ; {
		page, err := read(cursor)
		if err != nil {
			return queue.Page[T]{}, err
		}
		if cursor = page.Next; !v.Scoped() || cursor == "" || len(page.Items) > 0 || time.Now().After(late) {
			page.Next = v.Bind(cursor)
			return page, nil
		}
	}
}

// hasDelivery returns queue.ErrNotFound if the scope does not have a delivery, by its
// event and its webhook. The delivery itself need not exist.
func (r *Reader) hasDelivery(ctx context.Context, id queue.DeliveryID) error {
	if !r.view.Scoped() {
		return nil
	}
	if !r.view.hasWebhook(id.Webhook) {
		return fmt.Errorf("delivery %s: %w", id, queue.ErrNotFound)
	}
	_, err := r.Event(ctx, id.Event)
	return err
}

// Delivery returns one delivery.
func (r *Reader) Delivery(ctx context.Context, id queue.DeliveryID) (queue.Delivery, error) {
	if err := r.hasDelivery(ctx, id); err != nil {
		return queue.Delivery{}, err
	}
	return r.queue.Delivery(ctx, id)
}

// EventDeliveries returns every delivery of one event.
func (r *Reader) EventDeliveries(ctx context.Context, id queue.EventID) ([]queue.Delivery, error) {
	if _, err := r.Event(ctx, id); err != nil {
		return nil, err
	}
	all, err := r.queue.EventDeliveries(ctx, id)
	return slices.DeleteFunc(all, func(d queue.Delivery) bool { return !r.view.hasWebhook(d.ID.Webhook) }), err
}

// Attempts returns the attempts of one delivery.
func (r *Reader) Attempts(ctx context.Context, id queue.DeliveryID) ([]queue.Attempt, error) {
	if err := r.hasDelivery(ctx, id); err != nil {
		return nil, err
	}
	return r.queue.Attempts(ctx, id)
}

// Caught returns the submissions that honeypots caught.
func (r *Reader) Caught(ctx context.Context) ([]queue.Caught, error) {
	all, err := r.queue.Caught(ctx)
	return slices.DeleteFunc(all, func(c queue.Caught) bool {
		var document struct{ Data map[string]json.RawMessage } // a struct would take other spellings for projectId
		var project string
		if json.Unmarshal(c.Body, &document) == nil {
			_ = json.Unmarshal(document.Data["projectId"], &project) // absent: no project
		}
		return !r.view.hasProject(project)
	}), err
}
