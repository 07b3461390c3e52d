package jetstreamqueue

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/userhero/relay/queue"
)

// ledger counts deliveries. Each relay has its own ledger and reads all messages for it.
type ledger struct {
	mu       sync.Mutex // guards everything below
	events   uint64     // the last event that was entered
	state    uint64     // the last message of the state stream that was entered
	accounts map[queue.WebhookID]*account
	changed  chan struct{} // closed when events or state changes; nil if no call waits
	// complete is when the ledger last had everything that the leaders had. stored and
	// bytes are the size of the streams when the servers last answered.
	complete      time.Time
	stored, bytes int64
	// erasing is the step of an erasure that is under way, or nil. early holds erased events
	// that were subtracted before they were entered.
	erasing *erasingStep
	early   map[uint64]struct{}
	// redacted is the first event that may be redacted; 0 means that none is.
	redacted uint64
	// removed holds the events of the last removal when the ledger started, and when that
	// was stored. Their records may still be there, and no longer count.
	removed   map[uint64]struct{}
	removedAt uint64
}

// erasingStep is an erasing message with its sequence number.
type erasingStep struct {
	erasing
	seq uint64
}

// account holds the counts of one webhook's deliveries.
type account struct {
	cursor cursor
	from   uint64 // at the start, cursor.Taken counted the events up to this one
	listed int64  // events that the webhook gets: cursor.Taken at the start, plus those after from
	// records counts the deliveries with a record, by state. wereDelivered counts those of
	// them that cursors count as delivered.
	records          queue.Counts
	wereDelivered    int64
	ahead            map[uint64]struct{} // have a record, but the cursor has not passed them yet
	removedDelivered int64               // removed deliveries that cursors count as delivered
	removedFresh     int64               // removed deliveries that no cursor has passed
	removedBefore    int64               // how many of these listed and cursor never counted
	kept             keptCounts          // deliveries of redacted events
}

// counts returns the number of the webhook's deliveries by state.
func (a *account) counts() queue.Counts {
	c := a.records
	c.Pending += a.listed - a.cursor.Taken + int64(len(a.cursor.Gaps)) - int64(len(a.ahead)) - (a.removedFresh - a.removedBefore)
	c.Delivered += a.cursor.Delivered - a.wereDelivered - a.removedDelivered
	return c.Add(a.kept.counts())
}

// account returns a webhook's account. The caller holds g.mu.
func (g *ledger) account(w queue.WebhookID) *account {
	a := g.accounts[w]
	if a == nil {
		a = &account{ahead: make(map[uint64]struct{})}
		g.accounts[w] = a
	}
	return a
}

// start reads the state of every delivery and then follows new messages.
func (g *ledger) start(ctx context.Context, q *Queue) error {
	begin := func() {
		g.accounts, g.erasing, g.early = make(map[queue.WebhookID]*account), nil, make(map[uint64]struct{})
	}
	var last, removal uint64
	for {
		before, seq, err := q.lastRemoval(ctx)
		if err != nil {
			return err
		}
		g.removed, g.removedAt, removal = make(map[uint64]struct{}, len(before.Events)), seq, 0
		for _, event := range before.Events {
			g.removed[event] = struct{}{}
		}
		last, err = q.newest(ctx, q.names.state(), []string{q.names.prefix + ".d.>", q.names.prefix + ".l.*", q.names.sweep(), q.names.prefix + ".z.*", q.names.erasing()}, begin, func(m *message) {
			g.enter(q, m, true)
			if m.subject == q.names.sweep() {
				removal = m.seq
			}
		})
		if err != nil {
			return err
		}
		if removal == seq {
			g.removed = nil
			break
		}
	}
	events, err := q.info(ctx, q.names.events(), "")
	if err != nil {
		return err
	}
	from := events.last
	for id, w := range q.registry.all() {
		a := g.account(id)
		a.from = max(a.cursor.Head, w.since)
		a.listed = a.cursor.Taken
		from = min(from, a.from)
		// Removed events are neither listed nor in the cursor, unless they are still in its
		// gaps.
		a.removedBefore = a.removedFresh
		for _, seq := range a.cursor.Gaps {
			if _, err := q.get(ctx, q.names.events(), getRequest{Seq: seq}); errors.Is(err, queue.ErrNotFound) {
				a.removedBefore--
			} else if err != nil {
				return err
			}
		}
	}
	g.state, g.events = last, from
	q.follow(q.names.state(), last+1, true, func(m *message) { g.enter(q, m, false) })
	q.follow(q.names.events(), from+1, false, func(m *message) { g.enterEvent(q, m) })
	// The last message may have been removed. Then it is never read.
	end, err := q.last(ctx, q.names.events(), ">")
	if errors.Is(err, queue.ErrNotFound) {
		end, err = &message{}, nil
	}
	if err != nil {
		return err
	}
	_, err = g.wait(ctx, end.seq, 0, q.o.Patience)
	g.asOf(time.Now(), err == nil)
	return err
}

// enter enters a message of the state stream.
func (g *ledger) enter(q *Queue, m *message, first bool) {
	if w, seq, ok := q.names.delivery(m.subject); ok {
		var head recordHead
		if err := m.head(headerRecord, &head); err != nil {
			q.o.Logger.Error("a record of a delivery cannot be read", "error", err)
		} else {
			g.enterRecord(w, seq, record{head, m.seq}, first)
			q.outcomes.forgetRecorded(w, seq, m.seq)
			q.tellLane(w, seq, record{head, m.seq}, first)
		}
	} else if w, ok := q.names.webhookOf(".l.", m.subject); ok {
		var c cursor
		if err := m.head(headerCursor, &c); err != nil {
			q.o.Logger.Error("a cursor cannot be read", "error", err)
		} else {
			g.enterCursor(w, c)
			q.outcomes.forget(w, func(o outcome) bool { return o.Record == 0 && c.has(o.Event) })
		}
	} else if m.subject == q.names.sweep() {
		g.enterSweep(q, m, first)
	} else if hash, ok := q.names.erasedOf(m.subject); ok {
		q.erased.add(hash)
	} else if m.subject == q.names.erasing() {
		g.enterErasing(q, m, first)
	}
	g.mu.Lock()
	g.state = max(g.state, m.seq)
	g.wake()
	g.mu.Unlock()
}

func (g *ledger) enterRecord(w queue.WebhookID, event uint64, head record, first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, removed := g.removed[event]; removed && first && head.seq < g.removedAt {
		return
	}
	a := g.account(w)
	if head.Was != 0 && !first {
		a.records.Count(head.Was, -1)
	}
	a.records.Count(head.State, 1)
	if head.Was == 0 || first {
		switch head.Origin {
		case originDelivered:
			a.wereDelivered++
		case originFresh:
			if !a.cursor.has(event) {
				a.ahead[event] = struct{}{}
			}
		}
	}
}

func (g *ledger) enterCursor(w queue.WebhookID, c cursor) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.account(w)
	a.cursor = c
	maps.DeleteFunc(a.ahead, func(seq uint64, _ struct{}) bool { return c.has(seq) })
}

// hasPassed reports whether a lane's last cursor has passed an event.
func (g *ledger) hasPassed(w queue.WebhookID, event uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.accounts[w]
	return a != nil && a.cursor.has(event)
}

// enterEvent enters an event and offers it to the lanes of its webhooks.
func (g *ledger) enterEvent(q *Queue, m *message) {
	e, err := q.event(m)
	if err != nil {
		q.o.Logger.Error("an event cannot be read", "error", err)
		e = &storedEvent{}
	}
	if e.isHold() { // it stands for an event that every lane has passed
		e.webhooks = nil
	}
	g.mu.Lock()
	_, early := g.early[m.seq]
	delete(g.early, m.seq)
	for _, w := range e.webhooks {
		if a := g.account(w); m.seq > a.from && !early {
			a.listed++
		}
	}
	g.events = m.seq
	g.wake()
	g.mu.Unlock()
	if q.erased.has(e.Feedback) {
		q.erased.noteLate(e.Feedback)
	}
	if early {
		return
	}
	for _, w := range e.webhooks {
		if l := q.laneOf(w); l != nil {
			l.offer(e)
		}
	}
}

// enterErasing enters a step of an erasure and tells the lanes.
func (g *ledger) enterErasing(q *Queue, m *message, first bool) {
	step := &erasingStep{seq: m.seq}
	if err := m.head(headerErasing, &step.erasing); err != nil {
		q.o.Logger.Error("what is being erased cannot be read", "error", err)
		return
	}
	g.mu.Lock()
	g.erasing = step
	g.mu.Unlock()
	if first {
		return
	}
	for _, l := range q.openLanes() {
		l.mu.Lock()
		l.freeze(step)
		l.mu.Unlock()
	}
}

// isErasing returns the step of an erasure that is under way, or nil.
func (g *ledger) isErasing() *erasingStep {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.erasing
}

// wake wakes the calls of wait. The caller holds g.mu.
func (g *ledger) wake() {
	if g.changed != nil {
		close(g.changed)
		g.changed = nil
	}
}

// wait waits until the ledger has entered both streams up to these sequence numbers, for at
// most a time. It reports whether the ledger has.
func (g *ledger) wait(ctx context.Context, events, state uint64, most time.Duration) (bool, error) {
	timeout := time.NewTimer(most)
	defer timeout.Stop()
	for {
		g.mu.Lock()
		if g.events >= events && g.state >= state {
			g.mu.Unlock()
			return true, nil
		}
		if g.changed == nil {
			g.changed = make(chan struct{})
		}
		changed := g.changed
		g.mu.Unlock()
		select {
		case <-changed:
		case <-timeout.C:
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// noteSizes stores the size of the streams.
func (g *ledger) noteSizes(stored, bytes int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stored, g.bytes = stored, bytes
}

// firstRedacted returns the first event that may be redacted; 0 means that none is.
func (g *ledger) firstRedacted() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.redacted
}

// firstEvent returns the first event that may be stored. first is the first message in the
// stream of events.
func (g *ledger) firstEvent(first uint64) uint64 {
	if redacted := g.firstRedacted(); redacted > 0 {
		return min(first, redacted)
	}
	return first
}

// hasRedacted reports whether an event up to this one may be redacted.
func (g *ledger) hasRedacted(end uint64) bool {
	redacted := g.firstRedacted()
	return redacted > 0 && redacted <= end
}

func (g *ledger) sizes() (stored, bytes int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.stored, g.bytes
}

// asOf returns the time up to which the counts are complete. asked is when the leaders
// reported the ends of the streams. complete is set if the ledger has read up to these
// ends.
func (g *ledger) asOf(asked time.Time, complete bool) time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	if complete {
		g.complete = asked
	}
	return g.complete
}

// cursor returns the last cursor of a webhook that the ledger has entered.
func (g *ledger) cursor(w queue.WebhookID) cursor {
	g.mu.Lock()
	defer g.mu.Unlock()
	if a := g.accounts[w]; a != nil {
		return a.cursor
	}
	return cursor{}
}

// stateRead returns the last message of the state stream that was entered.
func (g *ledger) stateRead() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state
}

// position returns the last event that was entered.
func (g *ledger) position() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.events
}

func negative(c queue.Counts) queue.Counts {
	return queue.Counts{Pending: -c.Pending, Retrying: -c.Retrying, Delivered: -c.Delivered, Failed: -c.Failed}
}
