package jetstreamqueue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/userhero/relay/queue"
)

const (
	// redactEvents and redactListed limit what is redacted together: events, and the
	// webhooks that these are for.
	redactEvents, redactListed = 64, 2000
	// redactLook is how many events one round judges again at most that had not ended. New
	// ones it reads as many at a time, for redactFor.
	redactLook = 1024
	redactFor  = time.Minute
	// redactWait is how long the owners of lanes may take to write a cursor.
	redactWait = 5 * time.Second
	// raiseLeast and raiseMost limit by how much raiseFirst raises the number at once.
	raiseLeast, raiseMost = 4096, 1 << 17
)

// redactor is what a relay remembers from one round of redacting to the next.
type redactor struct {
	next uint64   // the first message in the stream of events that was not looked at
	left []uint64 // events that were looked at and had not ended long enough ago
}

func redacts(l queue.Limits) bool { return l.RedactAfter > 0 && l.Redact != nil }

// round redacts the events that have ended long enough ago, as queue.Limits says. The relay
// has the lock of the sweep.
func (r *redactor) round(ctx context.Context, q *Queue, sweeping *lock, limits queue.Limits) error {
	if _, err := q.last(ctx, q.names.state(), q.names.erasing()); err == nil {
		err := q.whileRemoving(ctx, func(ctx context.Context) error {
			_, err := (&erasure{q: q}).complete(ctx)
			return err
		})
		if err != nil {
			return err
		}
	} else if !errors.Is(err, queue.ErrNotFound) {
		return err
	}
	began := time.Now()
	old, err := r.again(ctx, q)
	for more := true; more && err == nil && !sweeping.lost() && time.Since(began) < redactFor; {
		var fresh []*storedEvent
		fresh, more, err = r.fresh(ctx, q, limits.RedactAfter)
		old = append(old, fresh...)
		for len(old) > 0 && err == nil && !sweeping.lost() {
			n, listed := 0, 0
			for n < len(old) && n < redactEvents && (n == 0 || listed+len(old[n].webhooks) <= redactListed) {
				listed += len(old[n].webhooks)
				n++
			}
			err = r.redact(ctx, q, old[:n], limits)
			old = old[n:]
		}
	}
	for _, e := range old {
		r.left = append(r.left, e.ID.Seq())
	}
	if err != nil {
		return err
	}
	return q.raiseFirst(ctx)
}

// again returns some of the events that were looked at before.
func (r *redactor) again(ctx context.Context, q *Queue) (old []*storedEvent, err error) {
	again := r.left[:min(len(r.left), redactLook)]
	r.left = r.left[len(again):]
	found := make([]*storedEvent, len(again))
	err = each(upTo(len(again)), func(i int) error {
		e, err := q.eventAt(ctx, again[i])
		if err == nil {
			found[i] = e
		}
		return ignoreNotFound(err)
	})
	if err != nil {
		r.left = append(again, r.left...)
		return nil, err
	}
	for _, e := range found {
		if e != nil && q.mayRedact(e) {
			old = append(old, e)
		}
	}
	return old, nil
}

// fresh returns the next events that were accepted long enough ago, and whether there may be
// more.
func (r *redactor) fresh(ctx context.Context, q *Queue, after time.Duration) (old []*storedEvent, more bool, err error) {
	for len(old) < redactLook {
		messages, err := q.rangeFrom(ctx, q.names.events(), ">", r.next, rangeMessages)
		if err != nil || len(messages) == 0 {
			return old, false, err
		}
		for _, m := range messages {
			e, err := q.event(m)
			if err != nil {
				return old, false, err
			}
			if q.mayRedact(e) {
				if time.Since(e.Created) < after {
					return old, false, nil
				}
				old = append(old, e)
			}
			r.next = m.seq + 1
		}
	}
	return old, true, nil
}

// mayRedact reports whether an event has a text that a redaction would remove.
func (q *Queue) mayRedact(e *storedEvent) bool {
	return !e.isHold() && !e.Redacted && !e.Feedback.IsZero() && !q.erased.has(e.Feedback)
}

// redact redacts those of the events that have ended long enough ago. It remembers the
// others.
func (r *redactor) redact(ctx context.Context, q *Queue, events []*storedEvent, limits queue.Limits) error {
	verdicts := make([]verdict, len(events))
	err := each(upTo(len(events)), func(i int) error {
		verdicts[i].storedEvent = events[i]
		return q.judgeOne(ctx, &verdicts[i], queue.Limits{Retention: limits.RedactAfter})
	})
	var ended []*verdict
	for i := range verdicts {
		if v := &verdicts[i]; err == nil && v.goes && !v.young {
			ended = append(ended, v)
		} else {
			r.left = append(r.left, v.ID.Seq())
		}
	}
	if len(ended) == 0 {
		return err
	}
	remaining := ended
	err = q.whileRemoving(ctx, func(ctx context.Context) error {
		step := redaction{q: q, document: limits.Redact}
		err := step.run(ctx, ended)
		if err == nil {
			remaining = step.left
		}
		return err
	})
	for _, v := range remaining {
		r.left = append(r.left, v.ID.Seq())
	}
	return err
}

// upTo returns the numbers from 0 to n-1.
func upTo(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

// whileRemoving calls do with the lock of who removes events. It does nothing while another
// call has it.
func (q *Queue) whileRemoving(ctx context.Context, do func(context.Context) error) error {
	held, err := q.acquire(ctx, removing, nil)
	if errors.Is(err, errSequence) {
		return nil
	}
	if err != nil {
		return err
	}
	return q.underLock(ctx, held, do)
}

// redaction redacts some events together, while it has the lock. Each step may be repeated,
// and the events are whole until the removal is stored:
//
//  1. What waits for parked webhooks ends.
//  2. An erasing message without events makes the owners of the lanes write cursors. So
//     every lane has passed the events, and no last cursor has a log of them.
//  3. Remains and holds are stored. From then on Requeue refuses the deliveries. If it was
//     called before that, the event is left for later.
//  4. A removal takes the records and logs of the events off the counts, and adds what is
//     kept.
//  5. The servers overwrite the events, their records and their logs. A relay that finds
//     the erasing message later does what is left of this.
//
// A call of Requeue that looked for remains right before they were stored may still store a
// record. The lane then finds the remains, and the delivery fails.
type redaction struct {
	q        *Queue
	document func([]byte) []byte
	left     []*verdict // events that were not redacted
}

func (s *redaction) run(ctx context.Context, events []*verdict) error {
	q := s.q
	if _, err := (&erasure{q: q}).complete(ctx); err != nil {
		return err
	}
	of := make(map[queue.WebhookID][]uint64) // the events, by webhook
	for _, v := range events {
		if err := s.endParked(ctx, v); err != nil {
			return err
		}
		for _, d := range v.deliveries {
			of[d.ID.Webhook] = append(of[d.ID.Webhook], v.ID.Seq())
		}
	}
	announced, cursors, err := s.release(ctx, of)
	if err != nil {
		return err
	}
	kept := make([][]keptDelivery, len(events))
	whole := make([]bool, len(events))
	err = each(upTo(len(events)), func(i int) (err error) {
		kept[i], whole[i], err = s.settled(ctx, events[i], announced, cursors)
		if err == nil && whole[i] {
			if err = s.store(ctx, events[i].storedEvent, kept[i]); err == nil {
				whole[i], err = s.close(ctx, events[i])
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	var gone []verdict
	for i, v := range events {
		if !whole[i] {
			s.left = append(s.left, v)
			continue
		}
		v.keeps = kept[i]
		gone = append(gone, *v)
	}
	last, seq, err := q.lastRemoval(ctx)
	if err != nil {
		return err
	}
	last.Erased, last.Erasing, last.Redacted = announced, 0, true
	for _, v := range gone {
		if last.FirstRedacted == 0 || v.ID.Seq() < last.FirstRedacted {
			last.FirstRedacted = v.ID.Seq()
		}
	}
	if err := q.publishRemoval(ctx, last, seq, gone, func(w queue.WebhookID) cursor { return cursors[w] }); err != nil {
		return err
	}
	_, err = (&erasure{q: q}).complete(ctx)
	return err
}

// endParked ends the deliveries of an event that wait, all of them for parked webhooks.
func (s *redaction) endParked(ctx context.Context, v *verdict) error {
	for _, d := range v.deliveries {
		w := d.ID.Webhook
		if _, exists := s.q.registry.get(w); !exists || !d.State.Waiting() {
			continue
		}
		before := v.records[w]
		head := recordHead{
			State: queue.Failed, Was: before.State, Origin: before.Origin, Rung: before.Rung, Attempts: before.Attempts,
			Ended: s.q.serverNanos(time.Now()), By: byRedaction,
		}
		if before.seq == 0 {
			head.Origin = originFresh
		}
		if _, err := s.again(ctx, w, v.ID.Seq(), record{head, before.seq}); err != nil && !errors.Is(err, errSequence) {
			return err
		}
	}
	return nil
}

// release makes the owner of each lane write a cursor, or writes it if there is no owner. It
// returns the cursors.
func (s *redaction) release(ctx context.Context, of map[queue.WebhookID][]uint64) (announced uint64, cursors map[queue.WebhookID]cursor, err error) {
	m := nats.NewMsg(s.q.names.erasing())
	m.Data = []byte("[]")
	if err := setHead(m, headerErasing, erasing{}); err != nil {
		return 0, nil, err
	}
	if announced, err = s.q.publish(ctx, m, whatever); err != nil {
		return 0, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, redactWait)
	defer cancel()
	var mu sync.Mutex
	cursors = make(map[queue.WebhookID]cursor)
	err = each(slices.Collect(maps.Keys(of)), func(w queue.WebhookID) error {
		c, err := s.q.awaitRelease(ctx, w, announced, of[w])
		mu.Lock()
		defer mu.Unlock()
		cursors[w] = c
		return err
	})
	return announced, cursors, err
}

// settled returns the deliveries of an event as they are kept. whole is false if one of them
// waits, has changed since the lanes wrote their cursors, or is not passed.
func (s *redaction) settled(ctx context.Context, v *verdict, announced uint64, cursors map[queue.WebhookID]cursor) (kept []keptDelivery, whole bool, err error) {
	seq := v.ID.Seq()
	ids := slices.Clone(v.webhooks)
	with, err := s.q.webhooksWithRecord(ctx, seq)
	if err != nil {
		return nil, false, err
	}
	for _, w := range with {
		if !slices.Contains(ids, w) {
			ids = append(ids, w)
		}
	}
	slices.Sort(ids)
	v.records = make(map[queue.WebhookID]record)
	for _, w := range ids {
		history, err := s.q.history(ctx, w, seq)
		if err != nil {
			return nil, false, err
		}
		d := keptDelivery{Webhook: w, recordHead: recordHead{State: queue.Failed, Origin: originFresh}}
		_, exists := s.q.registry.get(w)
		c := cursors[w]
		switch {
		case len(history) > 0:
			last := history[len(history)-1]
			if err := last.head(headerRecord, &d.recordHead); err != nil {
				return nil, false, err
			}
			r := record{d.recordHead, last.seq}
			v.records[w] = r
			if r.seq > announced || exists && (r.waits() || v.isFor(w) && !c.has(seq)) {
				return nil, false, nil
			}
			if r.waits() { // its webhook was deleted
				d.State, d.Due = queue.Failed, 0
			}
		case c.has(seq):
			one, err := s.q.readLogged(ctx, w, seq)
			if err != nil && !errors.Is(err, queue.ErrNotFound) {
				return nil, false, err
			}
			d.recordHead = recordHead{State: queue.Delivered, Origin: originDelivered, Attempts: 1, Ended: one.Ended}
		case exists:
			return nil, false, nil
		}
		if d.Attempts > 0 {
			attempts, err := s.q.attemptsIn(ctx, w, seq, history)
			if err != nil {
				return nil, false, err
			}
			for _, a := range attempts {
				d.Log = append(d.Log, newKeptAttempt(a))
			}
		}
		kept = append(kept, d)
	}
	return kept, true, nil
}

// store stores what remains of an event, and its hold.
func (s *redaction) store(ctx context.Context, e *storedEvent, kept []keptDelivery) error {
	redacted := *e
	redacted.Body = s.document(e.Body)
	subject := s.q.names.redacted(e.ID.Seq())
	for {
		m, err := newRemains(subject, &redacted, kept)
		if err != nil {
			return err
		}
		_, err = s.q.publish(ctx, m, whatever)
		if !errors.Is(err, queue.ErrTooLarge) || !slices.ContainsFunc(kept, func(d keptDelivery) bool { return d.Log != nil }) {
			if err != nil {
				return fmt.Errorf("redacting event %s: %w", e.ID, err)
			}
			return s.hold(ctx, e)
		}
		kept = slices.Clone(kept) // too many attempts: only the deliveries stay
		for i := range kept {
			kept[i].Log = nil
		}
	}
}

// close makes Requeue refuse the deliveries of an event whose remains are stored. If one of
// them was requeued before, it takes that back, removes the remains, and returns false.
func (s *redaction) close(ctx context.Context, v *verdict) (closed bool, err error) {
	q, seq := s.q, v.ID.Seq()
	open := make(map[queue.WebhookID]record)
	closed = true
	for w, r := range v.records {
		if _, exists := q.registry.get(w); !exists {
			continue
		}
		r.Closed, r.Was, r.By = true, r.State, byClosing
		r.seq, err = s.again(ctx, w, seq, r)
		if errors.Is(err, errSequence) {
			closed = false
			break
		}
		if err != nil {
			return false, err
		}
		open[w] = r
	}
	with, err := q.webhooksWithRecord(ctx, seq)
	if err != nil {
		return false, err
	}
	for _, w := range with {
		_, had := v.records[w]
		closed = closed && had
	}
	if closed {
		return true, nil
	}
	for w, r := range open {
		r.Closed = false
		if _, err := s.again(ctx, w, seq, r); err != nil && !errors.Is(err, errSequence) {
			return false, err
		}
	}
	return false, q.purge(ctx, q.names.state(), purge{Subject: q.names.redacted(seq)})
}

// again stores a record of a delivery after the last one, without an attempt.
func (s *redaction) again(ctx context.Context, w queue.WebhookID, event uint64, r record) (uint64, error) {
	m := nats.NewMsg(s.q.names.record(w, event))
	if err := setHead(m, headerRecord, r.recordHead); err != nil {
		return 0, err
	}
	return s.q.publish(ctx, m, after(r.seq))
}

// hold stores the hold of an event, if it is not stored yet.
func (s *redaction) hold(ctx context.Context, e *storedEvent) error {
	subject, seq := s.q.names.event(e.Feedback), e.ID.Seq()
	for {
		latest, place := seq, seq
		for from := seq + 1; ; from = place + 1 {
			m, err := s.q.get(ctx, s.q.names.events(), getRequest{Seq: from, Next: subject})
			if errors.Is(err, queue.ErrNotFound) {
				break
			}
			if err != nil {
				return err
			}
			next, err := s.q.event(m)
			if err != nil {
				return err
			}
			if next.isHold() && next.ID.Seq() == seq {
				return nil
			}
			if place = m.seq; next.isHold() {
				latest = max(latest, next.latest)
			} else {
				latest = m.seq
			}
		}
		stored := e.Event
		stored.Body, stored.Redacted = nil, true
		m, err := newEventMessage(subject, stored, e.webhooks, e.origin, e.answer)
		if err != nil {
			return err
		}
		if e.claim != "" {
			m.Header.Set(headerKey, e.claim)
		}
		if err := setHead(m, headerHold, hold{seq, latest}); err != nil {
			return err
		}
		if _, err = s.q.publish(ctx, m, after(place)); !errors.Is(err, errSequence) {
			return err
		}
	}
}

// finishRedaction overwrites the events of a removal, their records and their logs.
func (q *Queue) finishRedaction(ctx context.Context, r removal) error {
	var mu sync.Mutex
	logged := make(map[queue.WebhookID][]uint64)
	err := each(r.Events, func(seq uint64) error {
		e, err := q.redactedAt(ctx, seq)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for w, d := range e.kept {
			if d.Origin == originDelivered {
				logged[w] = append(logged[w], seq)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = each(slices.Collect(maps.Keys(logged)), func(w queue.WebhookID) error {
		_, err := q.forgetLogs(ctx, w, logged[w])
		return err
	})
	if err != nil {
		return err
	}
	err = each(r.Events, func(seq uint64) error {
		with, err := q.webhooksWithRecord(ctx, seq)
		if err != nil {
			return err
		}
		for _, w := range with {
			records, err := q.history(ctx, w, seq)
			if err != nil {
				return err
			}
			for _, m := range records {
				var head recordHead
				if err := m.head(headerRecord, &head); err != nil {
					return err
				}
				if m.seq > r.Erased && !head.Closed {
					continue // it was requeued since
				}
				if err := q.overwrite(ctx, q.names.state(), m.seq); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return each(r.Events, func(seq uint64) error { return q.overwrite(ctx, q.names.events(), seq) })
}

// passed returns a cursor that has passed events which have ended by records. The lane has
// no owner. It lists the events before them as gaps, if these are not too many.
func (q *Queue) passed(ctx context.Context, w queue.WebhookID, c cursor, ended []uint64) (cursor, error) {
	gone := make(map[uint64]bool, len(ended))
	for _, seq := range ended {
		r, err := q.readRecord(ctx, w, seq)
		if err != nil && !errors.Is(err, queue.ErrNotFound) {
			return c, err
		}
		gone[seq] = r.seq > 0 && !r.waits()
	}
	c.Gaps = slices.DeleteFunc(slices.Clone(c.Gaps), func(seq uint64) bool { return gone[seq] })
	to := slices.Max(ended)
	for c.Head < to {
		messages, err := q.rangeFrom(ctx, q.names.events(), ">", c.Head+1, rangeMessages)
		if err != nil || len(messages) == 0 {
			return c, err
		}
		for _, m := range messages {
			e, err := q.event(m)
			if err != nil {
				return c, err
			}
			if !e.isHold() && e.isFor(w) && m.seq <= to {
				if !gone[m.seq] && len(c.Gaps) >= restoredGaps {
					return c, nil
				}
				if c.Taken++; !gone[m.seq] {
					c.Gaps = append(c.Gaps, m.seq)
				}
			}
			if c.Head = min(m.seq, to); m.seq >= to {
				return c, nil
			}
		}
	}
	return c, nil
}

// raiseFirst stores from which number on events may be redacted, when retention has removed
// many. Otherwise lists would look for each of them.
func (q *Queue) raiseFirst(ctx context.Context) error {
	s, err := q.info(ctx, q.names.events(), "")
	if err != nil {
		return err
	}
	began := q.ledger.firstRedacted()
	first := began
	for first > 0 && first <= s.last && first-began < raiseMost {
		events, err := q.chunk(ctx, first, first+chunkEvents-1)
		if err != nil {
			return err
		}
		if len(events) > 0 {
			break
		}
		first += chunkEvents
	}
	if first-began < raiseLeast {
		return nil
	}
	return q.whileRemoving(ctx, func(ctx context.Context) error {
		if _, err := (&erasure{q: q}).complete(ctx); err != nil {
			return err
		}
		r, seq, err := q.lastRemoval(ctx)
		if err != nil || r.FirstRedacted != began {
			return err
		}
		r.FirstRedacted, r.Erasing, r.Redacted = first, 0, false
		return q.publishRemoval(ctx, r, seq, nil, nil)
	})
}
