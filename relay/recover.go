package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/expression"
)

// Recovery selects the events and deliveries that one webhook gets again.
type Recovery struct {
	// Failed selects deliveries whose ladder ran out. Missed selects events that the
	// webhook would have got if it had been enabled. Waiting selects deliveries that
	// wait for a retry.
	Failed, Missed, Waiting bool
	Since, Until            time.Time // by time of acceptance; zero is no bound
	DryRun                  bool      // only count

	atOnce int // replaces recoverAtOnce in tests
}

const (
	// recoverAtOnce bounds the delivery ids held in memory.
	recoverAtOnce = 100_000
	// requeuers is how many goroutines requeue at the same time, so that they share
	// commits.
	requeuers = 32
)

// Recover requeues what a webhook did not get, oldest first, each with a fresh ladder
// that is due now. It returns the count. Deliveries start slowly: the webhook's window
// begins at one, and an open breaker lets out only one probe. After an error, the
// deliveries already requeued stay so, and another call continues.
func (r *Relay) Recover(ctx context.Context, name string, what Recovery, who string) (count int64, err error) {
	w, err := r.find(name)
	if err != nil {
		return 0, err
	}
	// Others may have its name or its projects when it ends.
	a := Activity{What: "deliveries requeued", Who: who, Webhook: name, Projects: append([]string{}, w.projects()...)}
	var found int64
	err = r.Recoverable(ctx, name, what, func(n int64) { found = n }, func(ids []queue.DeliveryID) error {
		n, err := r.requeue(ctx, ids, w.ordered())
		if count += n; err != nil {
			err = fmt.Errorf("after %d: %w", count, err)
		}
		return err
	})
	if what.DryRun {
		return found, err
	}
	if count > 0 {
		w.probeNow()
		a.Detail = fmt.Sprint(count)
		r.Note(a)
	}
	return count, err
}

// Recoverable finds what a webhook did not get. It calls found with the number of
// deliveries that it has found so far, many times, and then, unless what.DryRun is set,
// send with their ids, oldest first, once or several times. The webhook's window begins
// at one before. Recoverable ends with the first error.
func (r *Relay) Recoverable(ctx context.Context, name string, what Recovery, found func(int64), send func([]queue.DeliveryID) error) error {
	w, err := r.find(name)
	if err != nil || len(what.states()) == 0 && !what.Missed {
		return err
	}
	sections, err := r.countAndSplit(ctx, w, what, found)
	if err != nil || what.DryRun {
		return err
	}
	w.beginGently()
	for _, s := range slices.Backward(sections) {
		ids, err := r.idsOf(ctx, w, what, s)
		if err == nil && len(ids) > 0 {
			err = send(ids)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// section is a part of a list, between two cursors. Lists begin with the newest
// delivery, but recovered deliveries go out oldest first, so that no update overtakes
// its creation. Recover therefore reads the list once to find its sections, then reads
// the sections from last to first.
type section struct{ from, to string }

// countAndSplit counts the deliveries to recover and splits the list into sections.
func (r *Relay) countAndSplit(ctx context.Context, w *webhook, what Recovery, found func(int64)) (all []section, err error) {
	s, count, inSection, atOnce := section{}, int64(0), 0, cmp.Or(what.atOnce, recoverAtOnce)
	for cursor := ""; ; {
		ids, next, err := r.recoverable(ctx, w, what, cursor)
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return nil, err
		}
		count += int64(len(ids))
		found(count)
		inSection += len(ids)
		if next == "" || inSection >= atOnce {
			s.to = next
			all = append(all, s)
			s, inSection = section{from: next}, 0
		}
		if cursor = next; cursor == "" {
			return all, nil
		}
	}
}

// idsOf returns the deliveries of a section, oldest first.
func (r *Relay) idsOf(ctx context.Context, w *webhook, what Recovery, s section) (ids []queue.DeliveryID, err error) {
	for cursor := s.from; ; {
		page, next, err := r.recoverable(ctx, w, what, cursor)
		if err != nil {
			return nil, err
		}
		ids = append(ids, page...)
		if cursor = next; cursor == s.to || cursor == "" {
			slices.Reverse(ids)
			return ids, nil
		}
	}
}

// requeue requeues deliveries and counts them. It requeues several at a time, which
// share commits, unless they must keep their order.
func (r *Relay) requeue(ctx context.Context, ids []queue.DeliveryID, ordered bool) (int64, error) {
	atOnce := requeuers
	if ordered {
		atOnce = 1
	}
	all, until := errgroup.WithContext(ctx)
	all.SetLimit(atOnce)
	var count atomic.Int64
	for _, id := range ids {
		all.Go(func() error {
			err := until.Err()
			if err == nil {
				err = r.queue.Requeue(until, id, time.Now())
			}
			switch {
			case err == nil:
				count.Add(1)
			case errors.Is(err, queue.ErrConflict), errors.Is(err, queue.ErrNotFound), errors.Is(err, queue.ErrRedacted):
				return nil // the delivery is leased, or its event was removed or redacted
			}
			return err
		})
	}
	err := all.Wait()
	return count.Load(), cmp.Or(context.Cause(ctx), err)
}

// recoverable returns one page of the deliveries to recover, newest first.
func (r *Relay) recoverable(ctx context.Context, w *webhook, what Recovery, cursor string) (ids []queue.DeliveryID, next string, err error) {
	if !what.Missed {
		page, err := r.queue.Deliveries(ctx, queue.DeliveryQuery{
			Webhook: w.id, States: what.states(), Since: what.Since, Until: what.Until, Limit: 1000, Cursor: cursor,
		})
		for _, d := range page.Items {
			may := w.takes(d.Feedback)
			if event.Type(d.Type).Operational() {
				e, err := r.queue.Event(ctx, d.ID.Event)
				if errors.Is(err, queue.ErrNotFound) {
					continue
				}
				if err == nil {
					may, err = r.mayGet(ctx, w, e)
				}
				if err != nil {
					return nil, "", err
				}
			}
			if may {
				ids = append(ids, d.ID)
			}
		}
		return ids, page.Next, err
	}
	page, err := r.queue.Events(ctx, queue.EventQuery{Since: what.Since, Until: what.Until, Limit: 200, Cursor: cursor})
	if err != nil {
		return nil, "", err
	}
	for _, e := range page.Items {
		if e.Redacted {
			continue
		}
		if may, err := r.mayGet(ctx, w, e); err != nil {
			return nil, "", err
		} else if !may {
			continue
		}
		id := queue.DeliveryID{Event: e.ID, Webhook: w.id}
		d, err := r.queue.Delivery(ctx, id)
		switch {
		case errors.Is(err, queue.ErrNotFound):
			if wanted, _ := w.wants(event.Type(e.Type), e.Feedback, expression.NewDocument(e.Body)); wanted {
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

// states returns the delivery states that r selects. It is empty if only Missed is set.
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
