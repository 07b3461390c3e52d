package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/expression"
)

// Erasure selects feedback to erase: one, or what a filter selects.
type Erasure struct {
	Feedback queue.FeedbackID
	// Filter is a CEL expression over `event` and `data`. It selects each feedback that has
	// a matching event.
	Filter   string
	Projects []string // the filter selects only feedback of these; nil means all
	// Counts, if not nil, reports whether the result counts the deliveries to a webhook. All
	// are erased.
	Counts func(queue.WebhookID) bool
	DryRun bool // only count
	// Compact makes the store free the space at once, so that none of its files holds any
	// part of the erased feedback.
	Compact bool

	atOnce int // replaces eraseAtOnce in tests
}

// Erased counts what was erased, or would be.
type Erased struct {
	queue.Erased
	// NotJudged counts the events that the filter could not judge. Such an event is erased
	// only if another event of its feedback matches. LastError is the last reason.
	NotJudged int64
	LastError string
}

// eraseAtOnce is the most feedback ids held in memory.
const eraseAtOnce = 50_000

// ErrCannotErase reports an engine that cannot erase.
var ErrCannotErase = errors.New("this queue engine does not erase feedback: use queue badger or queue jetstream")

// Erase removes feedback permanently: its events with their deliveries and attempts, and
// the answers that are kept for repeats. It returns when the attempts in flight have ended.
// The activity log records who erased feedback, and how much. If the feedback does not
// exist, the error is queue.ErrNotFound; if it was erased before, queue.ErrErased. After an
// error some feedback may be erased already. The result counts it, and another call
// continues.
func (r *Relay) Erase(ctx context.Context, what Erasure, who string) (sum Erased, err error) {
	q, ok := r.queue.(queue.Eraser)
	if !ok {
		return sum, ErrCannotErase
	}
	if !what.DryRun {
		ctx = context.WithoutCancel(ctx) // finish even if the client disconnects, so that no part is left
	}
	remove := func(ids []queue.FeedbackID) error {
		if len(ids) == 0 {
			return nil
		}
		var counted queue.Erased
		var err error
		if what.DryRun || what.Counts != nil {
			counted, err = r.countErasable(ctx, ids, what.Counts)
		}
		if err == nil && !what.DryRun {
			var n queue.Erased
			if n, err = q.Erase(ctx, ids); what.Counts != nil {
				n.Deliveries, n.Waiting, n.Attempts = counted.Deliveries, counted.Waiting, counted.Attempts
			}
			counted = n
		}
		sum.Erased = sum.Add(counted)
		return err
	}
	if what.Filter == "" {
		err = remove([]queue.FeedbackID{what.Feedback})
		if err == nil && sum.Events == 0 {
			if _, err = r.queue.Latest(ctx, what.Feedback); err == nil {
				err = fmt.Errorf("%s: %w", what.Feedback, queue.ErrConflict) // it was created in the meantime
			}
		}
	} else {
		err = r.eraseSelected(ctx, what, &sum, remove)
	}
	if sum.Events > 0 && !what.DryRun {
		r.noteErased(what, sum, who)
	}
	if err == nil && what.Compact && !what.DryRun {
		err = q.Compact(ctx)
	}
	return sum, err
}

// eraseSelected removes the feedback that the filter selects, in the order in which it is
// found: newest events first.
func (r *Relay) eraseSelected(ctx context.Context, what Erasure, sum *Erased, remove func([]queue.FeedbackID) error) error {
	filter, err := expression.CompileCondition(what.Filter)
	if err != nil {
		return fmt.Errorf("%w: filter: %w", ErrInvalid, err)
	}
	seen := make(map[queue.FeedbackID]bool)
	var ids []queue.FeedbackID
	q := queue.EventQuery{Projects: what.Projects, Limit: 1000, Match: func(body []byte) bool {
		holds, err := filter.Match(expression.NewDocument(body))
		if err != nil {
			sum.NotJudged++
			sum.LastError = err.Error()
		}
		return holds
	}}
	err = queue.EachEvent(ctx, r.queue.Events, q, func(e queue.Event) error {
		if e.Feedback.IsZero() || seen[e.Feedback] {
			return nil
		}
		seen[e.Feedback] = true
		ids = append(ids, e.Feedback)
		if len(ids) < cmp.Or(what.atOnce, eraseAtOnce) {
			return nil
		}
		err := remove(ids)
		ids = ids[:0]
		if !what.DryRun {
			clear(seen) // their events are removed
		}
		return err
	})
	if err != nil {
		return err
	}
	return remove(ids)
}

// countErasable counts what Erase would remove. Of the deliveries it counts those to the
// webhooks that counts reports; nil counts all.
func (r *Relay) countErasable(ctx context.Context, ids []queue.FeedbackID, counts func(queue.WebhookID) bool) (sum queue.Erased, err error) {
	q := queue.EventQuery{Limit: 1000}
	if len(ids) == 1 {
		q.FeedbackID, q.ProjectID = ids[0].ID, ids[0].Project
	}
	wanted, found := make(map[queue.FeedbackID]bool), make(map[queue.FeedbackID]bool)
	for _, id := range ids {
		wanted[id] = true
	}
	err = queue.EachEvent(ctx, r.queue.Events, q, func(e queue.Event) error {
		if !wanted[e.Feedback] {
			return nil
		}
		deliveries, err := r.queue.EventDeliveries(ctx, e.ID)
		if errors.Is(err, queue.ErrNotFound) {
			return nil // the event was removed in the meantime
		}
		found[e.Feedback] = true
		sum.Events++
		for _, d := range deliveries {
			if counts != nil && !counts(d.ID.Webhook) {
				continue
			}
			sum.Deliveries++
			sum.Attempts += int64(d.Attempts)
			if d.State.Waiting() {
				sum.Waiting++
			}
		}
		return err
	})
	sum.Feedbacks = int64(len(found))
	return sum, err
}

// noteErased records who erased feedback, and how much. It does not record which.
func (r *Relay) noteErased(what Erasure, sum Erased, who string) {
	a := Activity{What: "feedback erased", Who: who, Projects: what.Projects, Detail: fmt.Sprintf("feedbacks: %d, events: %d", sum.Feedbacks, sum.Events)}
	if what.Filter == "" && what.Feedback.Project != "" {
		a.Projects = []string{what.Feedback.Project}
	}
	if len(a.Projects) == 0 { // Promise 6: a scope does not see how many deliveries others got.
		a.Detail += fmt.Sprintf(", deliveries: %d, of which cancelled: %d", sum.Deliveries, sum.Waiting)
	}
	r.Note(a)
}
