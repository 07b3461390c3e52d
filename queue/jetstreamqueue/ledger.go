package jetstreamqueue

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/userhero/relay/queue"
)

// ledger counts deliveries. Each relay keeps its own, from the messages that all of
// them read.
type ledger struct {
	mu       sync.Mutex // guards everything below
	events   uint64     // the last event that was entered
	state    uint64     // the last message of the state stream
	accounts map[queue.WebhookID]*account
	changed  chan struct{} // closed when events or state move on; nil if nobody waits
	// When everything that the leader of each stream had was read, and what the streams
	// held, when the servers answered last.
	complete      time.Time
	stored, bytes int64
}

// account is what is known of one webhook's deliveries.
type account struct {
	cursor cursor
	from   uint64 // events up to this one are in cursor.Taken
	listed int64  // events that the webhook gets: cursor.Taken at first, and those after from
	// Deliveries with a record, by state, and how many of them cursors count as
	// delivered.
	records          queue.Counts
	wereDelivered    int64
	ahead            map[uint64]struct{} // with a record, and in order still to come
	removedDelivered int64               // delivered without a record, and removed since
	removedFresh     int64               // waited in order, and removed since
}

// counts are the webhook's deliveries by state.
func (a *account) counts() queue.Counts {
	c := a.records
	c.Pending += a.listed - a.cursor.Taken + int64(len(a.cursor.Gaps)) - int64(len(a.ahead)) - a.removedFresh
	c.Delivered += a.cursor.Delivered - a.wereDelivered - a.removedDelivered
	return c
}

// account returns a webhook's account; g.mu is held.
func (g *ledger) account(w queue.WebhookID) *account {
	a := g.accounts[w]
	if a == nil {
		a = &account{ahead: make(map[uint64]struct{})}
		g.accounts[w] = a
	}
	return a
}

// start reads where every delivery stands, and goes on with what comes.
func (g *ledger) start(ctx context.Context, q *Queue) error {
	begin := func() { g.accounts = make(map[queue.WebhookID]*account) }
	last, err := q.newest(ctx, q.names.state(), []string{q.names.prefix + ".d.>", q.names.prefix + ".l.*", q.names.sweep()}, begin, func(m *message) {
		g.enter(q, m, true)
	})
	if err != nil {
		return err
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
	}
	g.state, g.events = last, from
	q.follow(q.names.state(), last+1, true, func(m *message) { g.enter(q, m, false) })
	q.follow(q.names.events(), from+1, false, func(m *message) { g.enterEvent(q, m) })
	_, err = g.wait(ctx, events.last, 0, q.o.Patience)
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
			g.enterRecord(w, seq, head, first)
			q.tellLane(w, seq, record{head, m.seq}, first)
		}
	} else if w, ok := q.names.webhookOf(".l.", m.subject); ok {
		var c cursor
		if err := m.head(headerCursor, &c); err != nil {
			q.o.Logger.Error("a cursor cannot be read", "error", err)
		} else {
			g.enterCursor(w, c)
		}
	} else if m.subject == q.names.sweep() {
		g.enterSweep(q, m, first)
	}
	g.mu.Lock()
	g.state = max(g.state, m.seq)
	g.wake()
	g.mu.Unlock()
}

func (g *ledger) enterRecord(w queue.WebhookID, event uint64, head recordHead, first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.account(w)
	if head.Was != 0 && !first {
		a.records = a.records.Add(negative(count(head.Was)))
	}
	a.records = a.records.Add(count(head.State))
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

// enterEvent enters an event and offers it to the lanes of its webhooks.
func (g *ledger) enterEvent(q *Queue, m *message) {
	e, err := q.event(m)
	if err != nil {
		q.o.Logger.Error("an event cannot be read", "error", err)
		e = &storedEvent{}
	}
	g.mu.Lock()
	for _, w := range e.webhooks {
		if a := g.account(w); m.seq > a.from {
			a.listed++
		}
	}
	g.events = m.seq
	g.wake()
	g.mu.Unlock()
	for _, w := range e.webhooks {
		if l := q.laneOf(w); l != nil {
			l.offer(e)
		}
	}
}

// wake wakes those who wait for the ledger to move on; g.mu is held.
func (g *ledger) wake() {
	if g.changed != nil {
		close(g.changed)
		g.changed = nil
	}
}

// wait waits until the ledger has come so far in both streams, at most for a time, and
// reports whether it has.
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

// noteSizes keeps what the streams hold.
func (g *ledger) noteSizes(stored, bytes int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stored, g.bytes = stored, bytes
}

func (g *ledger) sizes() (stored, bytes int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.stored, g.bytes
}

// asOf returns up to when the counts are complete. Asked is when the leaders said how
// far the streams go, and complete whether all of that was read since.
func (g *ledger) asOf(asked time.Time, complete bool) time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	if complete {
		g.complete = asked
	}
	return g.complete
}

// cursor is the last cursor of a webhook that the ledger has seen.
func (g *ledger) cursor(w queue.WebhookID) cursor {
	g.mu.Lock()
	defer g.mu.Unlock()
	if a := g.accounts[w]; a != nil {
		return a.cursor
	}
	return cursor{}
}

// stateRead is the last message of the state stream that was entered.
func (g *ledger) stateRead() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state
}

// position is the last event that was entered.
func (g *ledger) position() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.events
}

func count(s queue.State) (c queue.Counts) {
	switch s {
	case queue.Pending:
		c.Pending = 1
	case queue.Retrying:
		c.Retrying = 1
	case queue.Delivered:
		c.Delivered = 1
	case queue.Failed:
		c.Failed = 1
	}
	return c
}

func negative(c queue.Counts) queue.Counts {
	return queue.Counts{Pending: -c.Pending, Retrying: -c.Retrying, Delivered: -c.Delivered, Failed: -c.Failed}
}
