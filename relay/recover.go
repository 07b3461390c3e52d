package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/expression"
)

// Recovery selects what to deliver again to one webhook.
type Recovery struct {
	// Failed takes deliveries whose ladder ran out, Missed events that it would
	// have got, had it been enabled, and Waiting deliveries that wait on a rung.
	Failed, Missed, Waiting bool
	Since, Until            time.Time // of acceptance; zero is no bound
	DryRun                  bool      // only count

	atOnce int // instead of recoverAtOnce, in tests
}

const (
	// recoverAtOnce bounds the deliveries whose names are in memory.
	recoverAtOnce = 100_000
	// requeuers share commits.
	requeuers = 32
)

// Recover delivers what a webhook has not got, oldest first, each with a fresh
// ladder that is due now, and counts it. It goes out gently: the webhook's window
// begins with one, and an open breaker lets out one probe. What was queued before
// an error stays so; calling again goes on.
func (r *Relay) Recover(ctx context.Context, name string, what Recovery, who string) (count int64, err error) {
	w, err := r.find(name)
	if err != nil {
		return 0, err
	}
	if len(what.states()) == 0 && !what.Missed {
		return 0, nil
	}
	sections, count, err := r.countAndSplit(ctx, w, what)
	if err != nil || what.DryRun {
		return count, err
	}
	w.mu.Lock()
	w.window.restart(w.underWay)
	w.mu.Unlock()
	count = 0
	for _, s := range slices.Backward(sections) {
		var n int64
		n, err = r.requeueSection(ctx, w, what, s)
		if count += n; err != nil {
			err = fmt.Errorf("after %d: %w", count, err)
			break
		}
	}
	if count > 0 {
		w.probeNow()
		r.note(activity{What: "deliveries requeued", Who: who, Webhook: name, Detail: fmt.Sprint(count)})
	}
	return count, err
}

// section is a part of a list, from one cursor to another. Lists begin with the newest
// delivery, and recovered deliveries go out oldest first, so that no update overtakes its
// creation. So the list is read once to find its sections, and then the sections from
// the last to the first.
type section struct{ from, to string }

// countAndSplit counts what is to be recovered, and splits the list into sections.
func (r *Relay) countAndSplit(ctx context.Context, w *webhook, what Recovery) (all []section, count int64, err error) {
	s, inSection, atOnce := section{}, 0, cmp.Or(what.atOnce, recoverAtOnce)
	for cursor := ""; ; {
		ids, next, err := r.recoverable(ctx, w, what, cursor)
		if err != nil {
			return nil, count, err
		}
		count += int64(len(ids))
		inSection += len(ids)
		if next == "" || inSection >= atOnce {
			s.to = next
			all = append(all, s)
			s, inSection = section{from: next}, 0
		}
		if cursor = next; cursor == "" {
			return all, count, nil
		}
	}
}

// requeueSection queues the deliveries of a section again, oldest first.
func (r *Relay) requeueSection(ctx context.Context, w *webhook, what Recovery, s section) (int64, error) {
	var ids []queue.DeliveryID
	for cursor := s.from; ; {
		page, next, err := r.recoverable(ctx, w, what, cursor)
		if err != nil {
			return 0, err
		}
		ids = append(ids, page...)
		if cursor = next; cursor == s.to || cursor == "" {
			break
		}
	}
	slices.Reverse(ids)
	return r.requeue(ctx, ids, w.ordered())
}

// requeue queues deliveries again and counts them. Several at a time share
// commits, unless they are to keep their order.
func (r *Relay) requeue(ctx context.Context, ids []queue.DeliveryID, ordered bool) (int64, error) {
	n := requeuers
	if ordered {
		n = 1
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var count, taken atomic.Int64
	var running sync.WaitGroup
	for range min(n, len(ids)) {
		running.Go(func() {
			for i := taken.Add(1) - 1; i < int64(len(ids)) && ctx.Err() == nil; i = taken.Add(1) - 1 {
				switch err := r.queue.Requeue(ctx, ids[i], time.Now()); {
				case err == nil:
					count.Add(1)
				case errors.Is(err, queue.ErrConflict), errors.Is(err, queue.ErrNotFound):
					// under way, or gone meanwhile
				default:
					fail(err)
				}
			}
		})
	}
	running.Wait()
	return count.Load(), context.Cause(ctx)
}

// recoverable is one page of what is to be recovered, newest first.
func (r *Relay) recoverable(ctx context.Context, w *webhook, what Recovery, cursor string) (ids []queue.DeliveryID, next string, err error) {
	if !what.Missed {
		page, err := r.queue.Deliveries(ctx, queue.DeliveryQuery{
			Webhook: w.id, States: what.states(), Since: what.Since, Until: what.Until, Limit: 1000, Cursor: cursor,
		})
		for _, d := range page.Items {
			ids = append(ids, d.ID)
		}
		return ids, page.Next, err
	}
	page, err := r.queue.Events(ctx, queue.EventQuery{Since: what.Since, Until: what.Until, Limit: 200, Cursor: cursor})
	if err != nil {
		return nil, "", err
	}
	for _, e := range page.Items {
		id := queue.DeliveryID{Event: e.ID, Webhook: w.id}
		d, err := r.queue.Delivery(ctx, id)
		switch {
		case errors.Is(err, queue.ErrNotFound):
			if wanted, _ := w.wants(event.Type(e.Type), expression.NewDocument(e.Body)); wanted {
				ids = append(ids, id)
			}
		case err != nil:
			return nil, "", err
		case slices.Contains(what.states(), d.State):
			ids = append(ids, id)
		}
	}
	return ids, page.Next, nil
}

// states are those of the deliveries to be sent; empty if only Missed is set.
func (r Recovery) states() (states []queue.State) {
	if r.Failed {
		states = append(states, queue.Failed)
	}
	if r.Waiting {
		states = append(states, queue.Retrying)
	}
	return states
}

// ordered reports whether the webhook keeps the events of one feedback in order.
func (w *webhook) ordered() bool {
	t := w.currentTarget()
	return t != nil && t.config.Ordered
}
