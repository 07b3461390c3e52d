package jetstreamqueue

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/userhero/relay/queue"
)

const (
	// eraseEvents and eraseListed limit one step of an erasure: its events, and the
	// webhooks that these are for.
	eraseEvents, eraseListed = 256, 2000
	// erasePoll is how often an erasure checks whether a lane has let go of its events.
	erasePoll = 10 * time.Millisecond
	// removing is the lock of who removes events, so that no event is subtracted twice.
	removing = "removing"
)

// erasing is written before the events of a step are erased. Lanes then attempt none of
// them, and write a cursor when their attempts have ended. Until a removal says that the
// events are subtracted from the counts, a relay that finds the message completes the step.
type erasing struct {
	Events []uint64 `json:"events"` // ascending
}

// erasedEvent is an event to erase, in the body of an erasing message.
type erasedEvent struct {
	Seq      uint64            `json:"seq"`
	Webhooks []queue.WebhookID `json:"webhooks"` // that got it when it was accepted
	// Hold is the message that stands for an event that was redacted, or 0. Redacted is set
	// if the event itself is gone.
	Hold     uint64 `json:"hold,omitempty"`
	Redacted bool   `json:"redacted,omitempty"`
}

// Erase implements queue.Eraser. First it marks the feedbacks as erased. From then on no
// relay that has read the mark accepts, shows or attempts anything of them. What a relay
// has accepted that had not read it yet is erased when the event is seen.
func (q *Queue) Erase(ctx context.Context, ids []queue.FeedbackID) (sum queue.Erased, err error) {
	if err := q.isClosed(); err != nil {
		return sum, err
	}
	held, err := q.awaitLock(ctx, removing)
	if err != nil {
		return sum, fmt.Errorf("erasing feedback: %w", err)
	}
	e := erasure{q: q}
	err = q.underLock(ctx, held, func(ctx context.Context) error { return e.run(ctx, ids) })
	if err != nil {
		return e.sum, fmt.Errorf("erasing feedback: %w", err)
	}
	return e.sum, nil
}

// Compact implements queue.Eraser. The servers overwrite what is erased at once.
func (q *Queue) Compact(context.Context) error { return q.isClosed() }

// awaitLock takes a lock as soon as it is free.
func (q *Queue) awaitLock(ctx context.Context, name string) (*lock, error) {
	for {
		held, err := q.acquire(ctx, name, nil)
		if !errors.Is(err, errSequence) {
			return held, err
		}
		if err := q.pause(ctx, erasePoll); err != nil {
			return nil, err
		}
	}
}

// underLock keeps a lock while do runs, and releases it. If the lock is lost, do's context
// ends.
func (q *Queue) underLock(ctx context.Context, held *lock, do func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		held.keep(ctx)
		cancel(fmt.Errorf("%w: another relay may remove events now; try again", errLaneLost))
	}()
	err := do(ctx)
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
		err = cause
	}
	cancel(nil)
	<-done
	if !held.lost() {
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), tryFor)
		defer cancel()
		held.release(release, "")
	}
	return err
}

// erasure is one call of Erase. It has the lock.
type erasure struct {
	q   *Queue
	sum queue.Erased
}

func (e *erasure) run(ctx context.Context, ids []queue.FeedbackID) error {
	if _, err := e.complete(ctx); err != nil {
		return err
	}
	wanted := make(map[queue.FeedbackID]bool, len(ids))
	var events []erasedEvent
	for _, id := range ids {
		if wanted[id] || id.IsZero() {
			continue
		}
		found, err := e.mark(ctx, id)
		if err != nil {
			return err
		}
		if len(found) > 0 {
			wanted[id] = true
			e.sum.Feedbacks++
			events = append(events, found...)
		}
	}
	if len(events) == 0 {
		return nil
	}
	if err := e.forgetKeys(ctx, wanted); err != nil {
		return err
	}
	slices.SortFunc(events, func(a, b erasedEvent) int { return cmp.Compare(a.Seq, b.Seq) })
	for len(events) > 0 {
		n, listed := 0, 0
		for n < len(events) && n < eraseEvents && (n == 0 || listed+len(events[n].Webhooks) <= eraseListed) {
			listed += len(events[n].Webhooks)
			n++
		}
		if err := e.step(ctx, events[:n]); err != nil {
			return err
		}
		events = events[n:]
	}
	return nil
}

// complete completes what another call has left: a removal, or a step of an erasure or of a
// redaction. It reports whether there was a removal.
func (e *erasure) complete(ctx context.Context) (removed bool, err error) {
	r, seq, err := e.q.lastRemoval(ctx)
	if err != nil {
		return false, err
	}
	if e.q.finished.Swap(seq) != seq && r.removes() {
		if err := e.q.finishRemoval(ctx, r); err != nil {
			e.q.finished.Store(0)
			return false, err
		}
		removed = true
	}
	m, err := e.q.last(ctx, e.q.names.state(), e.q.names.erasing())
	if err != nil {
		return removed, ignoreNotFound(err)
	}
	var events []erasedEvent
	if err := json.Unmarshal(m.data, &events); err != nil {
		return removed, fmt.Errorf("what is being erased cannot be read: %w", err)
	}
	return removed, e.carryOut(ctx, m.seq, events)
}

// mark marks a feedback as erased, if it is stored, and returns its events.
func (e *erasure) mark(ctx context.Context, id queue.FeedbackID) ([]erasedEvent, error) {
	if _, err := e.q.latest(ctx, id); err != nil {
		return nil, ignoreNotFound(err)
	}
	hash := id.Hash()
	if !e.q.erased.has(id) {
		if _, err := e.q.publish(ctx, nats.NewMsg(e.q.names.erased(hash)), whatever); err != nil {
			return nil, err
		}
		e.q.erased.add(hash)
	}
	for e.q.erased.isStoring(hash) {
		if err := e.q.pause(ctx, erasePoll); err != nil {
			return nil, err
		}
	}
	var all []erasedEvent
	for from := uint64(1); ; {
		m, err := e.q.get(ctx, e.q.names.events(), getRequest{Seq: from, Next: e.q.names.event(id)})
		if errors.Is(err, queue.ErrNotFound) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		event, err := e.q.event(m)
		if err != nil {
			return nil, err
		}
		from = m.seq + 1
		if !event.isHold() {
			all = append(all, erasedEvent{Seq: m.seq, Webhooks: event.webhooks})
			continue
		}
		seq := event.ID.Seq()
		i := slices.IndexFunc(all, func(one erasedEvent) bool { return one.Seq == seq })
		if i < 0 {
			all = append(all, erasedEvent{Seq: seq, Webhooks: event.webhooks, Redacted: true})
			i = len(all) - 1
		}
		all[i].Hold = m.seq
	}
}

// forgetKeys replaces the feedbacks' idempotency keys by what is left of them: the hash of
// the submission. They expire when the keys would have expired.
func (e *erasure) forgetKeys(ctx context.Context, ids map[queue.FeedbackID]bool) error {
	type bound struct {
		left     *heldKey // nil if an entry was refused
		messages []uint64
	}
	keys := make(map[string]bound)
	err := e.q.eachMessage(ctx, e.q.names.keys(), e.q.names.prefix+".k.*", func(m *message) error {
		var held heldKey
		if err := json.Unmarshal(m.data, &held); err != nil {
			return fmt.Errorf("an idempotency key cannot be read: %w", err)
		}
		if !ids[queue.FeedbackID{Project: held.Project, ID: held.Feedback}] {
			return nil
		}
		k := bound{messages: append(keys[m.subject].messages, m.seq)}
		if !held.Free {
			until := held.expires(m, e.q)
			k.left = &heldKey{Name: held.Name, Hash: held.Hash, Erased: true, Until: &until}
		}
		keys[m.subject] = k
		return nil
	})
	if err != nil {
		return err
	}
	for subject, k := range keys {
		if k.left != nil {
			if _, err := e.q.publishJSON(ctx, e.q.names.erasedKeyOf(subject), k.left, whatever); err != nil {
				return err
			}
			e.sum.Keys++
		}
		for _, seq := range k.messages {
			if err := e.q.overwrite(ctx, e.q.names.keys(), seq); err != nil {
				return err
			}
		}
	}
	return nil
}

// step erases some events.
func (e *erasure) step(ctx context.Context, events []erasedEvent) error {
	m, err := messageWith(e.q.names.erasing(), events)
	if err != nil {
		return err
	}
	head := erasing{}
	for _, one := range events {
		head.Events = append(head.Events, one.Seq)
	}
	if err := setHead(m, headerErasing, head); err != nil {
		return err
	}
	seq, err := e.q.publish(ctx, m, whatever)
	if err != nil {
		return err
	}
	return e.carryOut(ctx, seq, events)
}

// carryOut carries out a step that is announced by the message with a sequence number. It
// may be called again for the same step.
func (e *erasure) carryOut(ctx context.Context, announced uint64, events []erasedEvent) error {
	q := e.q
	gone := make([]verdict, len(events))
	cursors := make(map[queue.WebhookID]cursor)
	for i, one := range events {
		ids := slices.Clone(one.Webhooks)
		with, err := q.webhooksWithRecord(ctx, one.Seq)
		if err != nil {
			return err
		}
		for _, w := range append(ids, with...) {
			if _, ok := cursors[w]; ok {
				continue
			}
			if cursors[w], err = q.awaitRelease(ctx, w, announced, nil); err != nil {
				return err
			}
		}
		gone[i] = verdict{storedEvent: &storedEvent{webhooks: one.Webhooks}}
		gone[i].ID = queue.NewEventID(time.UnixMilli(0), 0, one.Seq)
		if one.Redacted {
			stored, err := q.redactedAt(ctx, one.Seq)
			if err == nil {
				gone[i].kept = stored.kept
			} else if !errors.Is(err, queue.ErrNotFound) {
				return err
			}
		}
	}
	var records []uint64 // messages
	logged := make(map[queue.WebhookID][]uint64)
	for i := range gone {
		messages, err := e.count(ctx, &gone[i], cursors, logged)
		if err != nil {
			return err
		}
		records = append(records, messages...)
	}
	for w, of := range logged {
		n, err := q.forgetLogs(ctx, w, of)
		if err != nil {
			return err
		}
		e.sum.Attempts += int64(n)
	}
	r, seq, err := q.lastRemoval(ctx)
	if err != nil {
		return err
	}
	if r.Redacted && r.Erased == announced {
		if err := q.finishRedaction(ctx, r); err != nil {
			return err
		}
	}
	if r.Erased < announced {
		r.Erased, r.Erasing, r.Redacted = announced, announced, false
		if err := q.publishRemoval(ctx, r, seq, gone, func(w queue.WebhookID) cursor { return cursors[w] }); err != nil {
			return err
		}
	}
	if err := each(records, func(seq uint64) error { return q.overwrite(ctx, q.names.state(), seq) }); err != nil {
		return err
	}
	if err := each(events, func(one erasedEvent) error { return q.overwriteEvent(ctx, one) }); err != nil {
		return err
	}
	return q.remove(ctx, q.names.state(), announced)
}

// overwriteEvent overwrites an event, and what redaction has stored for it.
func (q *Queue) overwriteEvent(ctx context.Context, one erasedEvent) error {
	if !one.Redacted {
		if err := q.overwrite(ctx, q.names.events(), one.Seq); err != nil || one.Hold == 0 {
			return err
		}
	}
	for {
		m, err := q.last(ctx, q.names.state(), q.names.redacted(one.Seq))
		if errors.Is(err, queue.ErrNotFound) {
			return q.overwrite(ctx, q.names.events(), one.Hold)
		}
		if err == nil {
			err = q.overwrite(ctx, q.names.state(), m.seq)
		}
		if err != nil {
			return err
		}
	}
}

// count reads the records of an event, adds its deliveries to what is erased, and to logged
// those whose attempt is in the log of a cursor. It returns the messages of the records.
func (e *erasure) count(ctx context.Context, v *verdict, cursors map[queue.WebhookID]cursor, logged map[queue.WebhookID][]uint64) (messages []uint64, err error) {
	seq := v.ID.Seq()
	v.records = make(map[queue.WebhookID]record)
	with, err := e.q.webhooksWithRecord(ctx, seq)
	if err != nil {
		return nil, err
	}
	e.sum.Events++
	waits := func(w queue.WebhookID) {
		if _, exists := e.q.registry.get(w); exists {
			e.sum.Waiting++
		}
	}
	for _, w := range with {
		all, err := e.q.history(ctx, w, seq)
		if err != nil {
			return nil, err
		}
		for _, m := range all {
			messages = append(messages, m.seq)
			if len(m.data) > 0 {
				e.sum.Attempts++
			}
			r := record{seq: m.seq}
			if err := m.head(headerRecord, &r.recordHead); err != nil {
				return nil, err
			}
			v.records[w] = r
		}
		e.sum.Deliveries++
		if v.records[w].waits() {
			waits(w)
		}
		if v.records[w].Origin == originDelivered {
			logged[w] = append(logged[w], seq)
		}
	}
	for w, kept := range v.kept {
		e.sum.Attempts += int64(len(kept.Log))
		if v.records[w].seq == 0 {
			e.sum.Deliveries++
		}
	}
	for _, w := range v.webhooks {
		if _, kept := v.kept[w]; kept || v.records[w].seq > 0 {
			continue
		}
		e.sum.Deliveries++
		if c := cursors[w]; c.has(seq) {
			logged[w] = append(logged[w], seq)
		} else {
			waits(w)
		}
	}
	return messages, nil
}

// webhooksWithRecord returns the webhooks for which an event has records.
func (q *Queue) webhooksWithRecord(ctx context.Context, seq uint64) (ids []queue.WebhookID, err error) {
	s, err := q.info(ctx, q.names.state(), q.names.recordsOf(seq))
	if err != nil {
		return nil, err
	}
	for subject := range s.subjects {
		if w, _, ok := q.names.delivery(subject); ok {
			ids = append(ids, w)
		}
	}
	return ids, nil
}

// awaitRelease waits until the owner of a lane has read an erasing message and has ended
// its attempts at these events. If the lane has no owner, it writes the cursor itself, and
// passes events that have ended by records. The state of the erased events' deliveries then
// does not change. It returns the lane's cursor.
func (q *Queue) awaitRelease(ctx context.Context, w queue.WebhookID, announced uint64, ended []uint64) (cursor, error) {
	for {
		c, seq, err := q.readCursor(ctx, w)
		if err != nil || c.Erasing >= announced {
			return c, err
		}
		_, exists := q.registry.get(w)
		if !exists && seq == 0 {
			return c, nil
		}
		_, err = q.last(ctx, q.names.locks(), q.names.lock(laneLock(w)))
		if errors.Is(err, queue.ErrNotFound) {
			if exists && len(ended) > 0 {
				if c, err = q.passed(ctx, w, c, ended); err != nil {
					return c, err
				}
			}
			c.Erasing, c.By = announced, "erase"
			m := nats.NewMsg(q.names.cursor(w))
			if err := setHead(m, headerCursor, c); err != nil {
				return c, err
			}
			if _, err = q.publish(ctx, m, after(seq)); err == nil || errors.Is(err, errSequence) {
				continue
			}
		}
		if err != nil {
			return c, err
		}
		if err := q.pause(ctx, erasePoll); err != nil {
			return c, fmt.Errorf("an attempt is still in flight: %w", err)
		}
	}
}

// forgetLogs removes deliveries from the logs of a lane's cursors. A log with others is
// stored again, without them, on a subject of its own. It returns how many it removed.
func (q *Queue) forgetLogs(ctx context.Context, w queue.WebhookID, events []uint64) (removed int, err error) {
	in := make(map[uint64]bool) // messages with a log
	gone := make(map[uint64]bool, len(events))
	for _, seq := range events {
		gone[seq] = true
		at, err := q.findLogged(ctx, w, seq)
		if errors.Is(err, queue.ErrNotFound) {
			continue
		}
		if err != nil {
			return removed, err
		}
		in[at.cursor] = true
	}
	for seq := range in {
		m, err := q.get(ctx, q.names.state(), getRequest{Seq: seq})
		if errors.Is(err, queue.ErrNotFound) {
			continue
		}
		if err != nil {
			return removed, err
		}
		c, entries, err := readCursorMessage(m)
		if err != nil {
			return removed, err
		}
		kept := nats.NewMsg(m.subject)
		if m.subject == q.names.cursor(w) {
			kept.Subject = q.names.keptLog(w, seq)
		}
		left := slices.DeleteFunc(entries, func(one logged) bool { return gone[one.Seq] })
		removed += len(entries) - len(left)
		if len(left) > 0 {
			if kept.Data, err = json.Marshal(left); err != nil {
				return removed, err
			}
			if err := setHead(kept, headerCursor, c); err != nil {
				return removed, err
			}
			if _, err := q.publish(ctx, kept, whatever); err != nil {
				return removed, err
			}
		}
		if err := q.overwrite(ctx, q.names.state(), seq); err != nil {
			return removed, err
		}
		q.attempts.forget(w, entries)
	}
	return removed, nil
}

// overwrite deletes one message, and the servers overwrite it in their files. It returns no
// error if the message is already deleted.
func (q *Queue) overwrite(ctx context.Context, stream string, seq uint64) error {
	return q.manage(ctx, "STREAM.MSG.DELETE."+stream, map[string]any{"seq": seq})
}

// eraseLeft completes erasures that another relay has left, and erases what a relay has
// accepted after its feedback was erased.
func (q *Queue) eraseLeft(ctx context.Context) {
	ids := q.erased.late()
	if len(ids) == 0 && q.ledger.isErasing() == nil {
		return
	}
	held, err := q.acquire(ctx, removing, nil)
	if err == nil {
		e := erasure{q: q}
		err = q.underLock(ctx, held, func(ctx context.Context) error { return e.run(ctx, ids) })
	}
	if err != nil {
		for _, id := range ids {
			q.erased.noteLate(id)
		}
		if !errors.Is(err, errSequence) && q.closed.Err() == nil {
			q.o.Logger.Warn("erasing feedback failed; it is tried again", "error", err)
		}
	}
}
