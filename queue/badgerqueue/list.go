package badgerqueue

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/layout"
	"github.com/userhero/relay/queue/badgerqueue/storeclock"
)

const (
	// listBudget is the most records that one page reads, and pageBytes the most bytes of
	// bodies that it holds. A page that reaches a limit is short and has a cursor.
	listBudget = 20000
	pageBytes  = 8 << 20
	// listTime is about how long the search for one page may take. The clock is read every
	// listLook records. After that time the page is returned with the rows found so far.
	listTime = 100 * time.Millisecond
	listLook = 256
	// createdSlack is the longest time assumed between acceptance and commit. Events are
	// numbered at commit, so their times are only nearly in order.
	createdSlack = time.Minute
)

// shownDelivery is a delivery as callers see it, with times of day.
func shownDelivery(c *storeclock.Clock, e *queue.Event, d delivery) queue.Delivery {
	p := queue.Delivery{
		ID:   queue.DeliveryID{Event: e.ID, Webhook: d.webhook},
		Type: e.Type, Feedback: e.Feedback, Created: e.Created,
		State: d.state, Rung: int(d.rung), Attempts: int(d.attempts),
	}
	if d.state.Waiting() {
		p.Due = c.Wall(d.at)
	} else {
		p.Ended = c.Wall(d.at)
	}
	return p
}

// publicDelivery returns a delivery as readers see it: a delivery that waits for a
// deleted webhook is shown as failed.
func (s *Store) publicDelivery(e *queue.Event, d delivery) queue.Delivery {
	if d.state.Waiting() && s.webhook(d.webhook) == nil {
		d.state, d.at = queue.Failed, 0
	}
	return shownDelivery(s.clock, e, d)
}

// eventByID reads an event with getEvent or getHeader, and checks that the whole id is the
// event's id, not only its sequence number.
func (s *Store) eventByID(txn *badger.Txn, id queue.EventID, get func(txn *badger.Txn, seq uint64) (queue.Event, error)) (queue.Event, error) {
	e, err := get(txn, id.Seq())
	if err == nil && e.ID != id {
		err = queue.ErrNotFound
	}
	if err != nil {
		return queue.Event{}, fmt.Errorf("event %s: %w", id, err)
	}
	return e, nil
}

// Event implements queue.Queue.
func (s *Store) Event(ctx context.Context, id queue.EventID) (e queue.Event, err error) {
	err = s.view(ctx, func(txn *badger.Txn) error {
		e, err = s.eventByID(txn, id, s.getEvent)
		return err
	})
	return e, err
}

// Latest implements queue.Queue.
func (s *Store) Latest(ctx context.Context, id queue.FeedbackID) (e queue.Event, err error) {
	err = s.view(ctx, func(txn *badger.Txn) error {
		held, err := s.lookUp(txn, id)
		if err == nil && held.is {
			e, err = s.getEvent(txn, held.Seq)
		}
		if err == nil && !held.is {
			err = queue.ErrNotFound
			if erased, failed := s.isErased(txn, id); erased || failed != nil {
				err = cmp.Or(failed, queue.ErrErased)
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", id, err)
		}
		return nil
	})
	return e, err
}

// Projects implements queue.Queue.
func (s *Store) Projects(ctx context.Context, id string, limit int) (projects []string, err error) {
	err = s.view(ctx, func(txn *badger.Txn) error {
		former, err := getRecord(txn, layout.FormerKey(id), layout.DecodeSeq)
		if err == nil {
			var e queue.Event
			if e, err = s.getHeader(txn, former); err == nil && e.Feedback.ID == id {
				projects = append(projects, e.Feedback.Project)
			}
		}
		if err != nil && !errors.Is(err, badger.ErrKeyNotFound) && !errors.Is(err, queue.ErrNotFound) {
			return err
		}
		return scan(txn, layout.FeedbackPrefix(id), nil, func(key, rec []byte) (bool, error) {
			if len(projects) >= limit {
				return false, nil
			}
			project, err := s.projectOfKey(txn, key, rec)
			projects = append(projects, project)
			return err == nil, err
		})
	})
	return projects, err
}

// projectOfKey returns the project of a G record. The key of a long project holds only a
// hash; the project itself is then in the event.
func (s *Store) projectOfKey(txn *badger.Txn, key, rec []byte) (string, error) {
	if id, known, _ := layout.ParseFeedbackKey(key); known {
		return id.Project, nil
	}
	held, err := layout.DecodeFeedback(key, rec)
	if err != nil {
		return "", err
	}
	e, err := s.getHeader(txn, held.Seq)
	return e.Feedback.Project, err
}

// EventDeliveries implements queue.Queue.
func (s *Store) EventDeliveries(ctx context.Context, id queue.EventID) (list []queue.Delivery, err error) {
	err = s.view(ctx, func(txn *badger.Txn) error {
		e, err := s.eventByID(txn, id, s.getHeader)
		if err != nil {
			return err
		}
		ds, err := getDeliveries(txn, id.Seq())
		for _, d := range ds {
			list = append(list, s.publicDelivery(&e, d))
		}
		return err
	})
	return list, err
}

// Delivery implements queue.Queue.
func (s *Store) Delivery(ctx context.Context, id queue.DeliveryID) (p queue.Delivery, err error) {
	err = s.view(ctx, func(txn *badger.Txn) error {
		e, err := s.eventByID(txn, id.Event, s.getHeader)
		if err != nil {
			return err
		}
		ds, err := getDeliveries(txn, id.Event.Seq())
		if err != nil {
			return err
		}
		d := ds.find(id.Webhook)
		if d == nil {
			return fmt.Errorf("delivery %s: %w", id, queue.ErrNotFound)
		}
		p = s.publicDelivery(&e, *d)
		return nil
	})
	return p, err
}

// Attempts implements queue.Queue.
func (s *Store) Attempts(ctx context.Context, id queue.DeliveryID) (list []queue.Attempt, err error) {
	err = s.view(ctx, func(txn *badger.Txn) error {
		if _, err := s.eventByID(txn, id.Event, s.getHeader); err != nil {
			return err
		}
		ds, err := getDeliveries(txn, id.Event.Seq())
		if err != nil {
			return err
		}
		d := ds.find(id.Webhook)
		if d == nil {
			d = &delivery{webhook: id.Webhook}
		}
		list, err = attemptsOf(txn, id, *d)
		return err
	})
	return list, err
}

// Events implements queue.Queue.
func (s *Store) Events(ctx context.Context, q queue.EventQuery) (page queue.Page[queue.Event], err error) {
	limit := queue.PageSize(q.Limit)
	from, err := queue.ParseCursor(q.Cursor)
	if err != nil {
		return page, err
	}
	err = s.view(ctx, func(txn *badger.Txn) error {
		start := s.newestBefore(txn, from.Seq, q.Until)
		budget, size, late := listBudget, 0, time.Now().Add(listTime)
		return scanBack(txn, []byte{layout.PrefixEvent}, start, func(key, rec []byte) (bool, error) {
			if budget--; spent(budget, late) || len(page.Items) >= limit || size > pageBytes {
				page.Next = queue.Cursor{Seq: layout.SeqOf(key)}.String()
				return false, nil
			}
			e, err := decodeEvent(key, rec, s.tags)
			if err != nil {
				_ = s.report("listing events", err)
				return true, nil
			}
			if !q.Since.IsZero() && e.Created.Before(q.Since.Add(-createdSlack)) {
				return false, nil
			}
			if !q.Selects(&e.Event) {
				return true, nil
			}
			if err := e.unpack(); err != nil {
				_ = s.report("listing events", err)
				return true, nil
			}
			if q.Match != nil && !q.Match(e.Body) {
				return true, nil
			}
			size += len(e.Body)
			page.Items = append(page.Items, e.Event)
			return true, ctx.Err()
		})
	})
	return page, err
}

// spent reports whether a page has used up its records or its time.
func spent(budget int, late time.Time) bool {
	return budget < 0 || (listBudget-budget)%listLook == 0 && time.Now().After(late)
}

// Deliveries implements queue.Queue.
func (s *Store) Deliveries(ctx context.Context, q queue.DeliveryQuery) (page queue.Page[queue.Delivery], err error) {
	limit := queue.PageSize(q.Limit)
	from, err := queue.ParseCursor(q.Cursor)
	if err != nil {
		return page, err
	}
	err = s.view(ctx, func(txn *badger.Txn) error {
		start := s.newestBefore(txn, from.Seq, q.Until)
		budget, late := listBudget, time.Now().Add(listTime)
		return scanBack(txn, []byte{layout.PrefixDeliveries}, asDeliveries(start), func(key, rec []byte) (bool, error) {
			at := layout.SeqOf(key)
			if budget--; spent(budget, late) {
				page.Next = queue.Cursor{Seq: at}.String()
				return false, nil
			}
			// Rows that do not match are skipped without reading their event. So read one
			// event now and then, only for its time.
			if !q.Since.IsZero() && budget%listLook == 0 {
				if e, err := s.getHeader(txn, at); err == nil && e.Created.Before(q.Since.Add(-createdSlack)) {
					return false, nil
				}
			}
			ds, err := decodeDeliveries(nil, key, rec)
			if err != nil {
				_ = s.report("listing deliveries", err)
				return true, nil
			}
			var e queue.Event
			for _, d := range ds {
				if at == from.Seq && d.webhook < from.Webhook || q.Webhook != 0 && d.webhook != q.Webhook {
					continue
				}
				if e.ID.IsZero() {
					if !s.wanted(d, q.States) && len(ds) == 1 {
						continue // no need to read the event
					}
					if e, err = s.getHeader(txn, at); err != nil {
						_ = s.report("listing deliveries", err)
						return true, nil
					}
					if !q.Since.IsZero() && e.Created.Before(q.Since.Add(-createdSlack)) {
						return false, nil
					}
				}
				if !q.Selects(&e) || !s.wanted(d, q.States) {
					continue
				}
				if len(page.Items) >= limit {
					page.Next = queue.Cursor{Seq: at, Webhook: d.webhook}.String()
					return false, nil
				}
				page.Items = append(page.Items, s.publicDelivery(&e, d))
			}
			return true, ctx.Err()
		})
	})
	return page, err
}

func (s *Store) wanted(d delivery, states []queue.State) bool {
	if d.state.Waiting() && s.webhook(d.webhook) == nil {
		d.state = queue.Failed
	}
	return len(states) == 0 || slices.Contains(states, d.state)
}

// newestBefore returns the A key from which a page lists downwards. With a cursor it is
// the key of seq. Without one it is the key of the newest event that may have been
// created before until. Nil means the newest event of all.
func (s *Store) newestBefore(txn *badger.Txn, seq uint64, until time.Time) []byte {
	if seq != math.MaxUint64 {
		return layout.EventKey(seq)
	}
	if until.IsZero() {
		return nil
	}
	// Sequence numbers have no gaps and are nearly in order of time. Events that
	// retention has removed count as old.
	newest := s.shown.Load().Seq
	i := sort.Search(int(newest), func(i int) bool {
		e, err := s.getHeader(txn, uint64(i)+1)
		return err == nil && !e.Created.Before(until.Add(createdSlack))
	})
	return layout.EventKey(uint64(i) + 1)
}

func asDeliveries(eventKey []byte) []byte {
	if eventKey == nil {
		return nil
	}
	return layout.DeliveriesKey(layout.SeqOf(eventKey))
}

// Activities implements queue.Queue.
func (s *Store) Activities(ctx context.Context, limit int, c string) (page queue.Page[queue.Activity], err error) {
	limit = queue.PageSize(limit)
	var start []byte
	if c != "" {
		if start, err = parseActivityID(c); err != nil {
			return page, err
		}
	}
	err = s.view(ctx, func(txn *badger.Txn) error {
		return scanBack(txn, []byte{layout.PrefixActivity}, start, func(key, rec []byte) (bool, error) {
			if len(page.Items) >= limit {
				page.Next = activityID(key)
				return false, nil
			}
			data, err := layout.Unseal(key, rec)
			if err != nil {
				_ = s.report("listing activities", err)
				return true, nil
			}
			page.Items = append(page.Items, queue.Activity{
				ID:   activityID(key),
				At:   activityTime(key),
				Data: bytes.Clone(data),
			})
			return true, nil
		})
	})
	return page, err
}

func activityID(key []byte) string { return fmt.Sprintf("act_%x", key[1:]) }

func parseActivityID(id string) ([]byte, error) {
	var b []byte
	if n, err := fmt.Sscanf(id, "act_%x", &b); n != 1 || err != nil || len(b) != 12 {
		return nil, fmt.Errorf("%w: %q is no cursor of this list", queue.ErrNotFound, id)
	}
	return append([]byte{layout.PrefixActivity}, b...), nil
}
