package jetstreamqueue

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/userhero/relay/queue"
)

const (
	// The time between two sweeps is a fiftieth of the retention, within these limits.
	sweepLeast, sweepMost = 20 * time.Millisecond, 30 * time.Second
	// sweepEvents is about how many events one sweep judges at most, and sweepRemoves about
	// how many it removes.
	sweepEvents, sweepRemoves = 4096, 512
	// nearMax is the share of MaxDisk above which finished events are removed early.
	nearMax = 0.9
	// atOnce is how many events are judged or removed at the same time.
	atOnce = 16
)

// storeSize is the size of the stream of events: the size that the server last reported,
// plus what this relay has stored since.
type storeSize struct{ bytes atomic.Int64 }

func (s *storeSize) note(bytes uint64) { s.bytes.Store(int64(bytes)) }
func (s *storeSize) add(n int)         { s.bytes.Add(int64(n)) }
func (s *storeSize) get() int64        { return s.bytes.Load() }

// removal is written before events are removed. Each ledger subtracts them from its counts.
// If the relay dies before it has removed them, the next relay that starts removes them.
type removal struct {
	Events []uint64 `json:"events"` // the events of this removal
	// Records counts the removed deliveries that have a record. WereDelivered counts those
	// of them that cursors count as delivered.
	Records       map[queue.WebhookID]queue.Counts `json:"records,omitempty"`
	WereDelivered map[queue.WebhookID]int64        `json:"were_delivered,omitempty"`
	// Delivered counts all deliveries removed so far that cursors count as delivered. Fresh
	// counts all those removed so far that no cursor has passed.
	Delivered map[queue.WebhookID]int64 `json:"delivered,omitempty"`
	Fresh     map[queue.WebhookID]int64 `json:"fresh,omitempty"`
	// Erased is the last erasing message whose events were removed, in this removal or one
	// before. Erasing is that of this removal, or 0. FreshOf then has, for each event, the
	// webhooks for which it adds to Fresh.
	Erased  uint64                       `json:"erased,omitempty"`
	Erasing uint64                       `json:"erasing,omitempty"`
	FreshOf map[uint64][]queue.WebhookID `json:"fresh_of,omitempty"`
	// Redacted is set if the events are not removed but redacted. Kept counts the deliveries
	// of all events that are redacted now. FirstRedacted is the first event that may be.
	Redacted      bool                           `json:"redacted,omitempty"`
	Kept          map[queue.WebhookID]keptCounts `json:"kept,omitempty"`
	FirstRedacted uint64                         `json:"first_redacted,omitempty"`
	// Holds has the messages of those events that were redacted before.
	Holds map[uint64]uint64 `json:"holds,omitempty"`
}

// removes reports whether finishRemoval has something to do. An erasure and a redaction
// remove their events themselves.
func (r *removal) removes() bool { return len(r.Events) > 0 && r.Erasing == 0 && !r.Redacted }

// enterSweep enters a removal. At the start (first) it does not subtract deliveries with a
// record, because the ledger has never counted them.
func (g *ledger) enterSweep(q *Queue, m *message, first bool) {
	var r removal
	if err := m.head(headerSweep, &r); err != nil {
		q.o.Logger.Error("what retention has removed cannot be read", "error", err)
		return
	}
	if r.Erasing > 0 && !first {
		defer q.dropErased(r.Events)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.erasing != nil && r.Erased >= g.erasing.seq {
		g.erasing = nil
	}
	for w, n := range r.Delivered {
		g.account(w).removedDelivered = n
	}
	for w, n := range r.Fresh {
		g.account(w).removedFresh = n
	}
	for w, n := range r.Kept {
		g.account(w).kept = n
	}
	g.redacted = r.FirstRedacted
	if first {
		return
	}
	for w, c := range r.Records {
		a := g.account(w)
		a.records = a.records.Add(negative(c))
	}
	for w, n := range r.WereDelivered {
		g.account(w).wereDelivered -= n
	}
	for _, a := range g.accounts {
		for _, seq := range r.Events {
			delete(a.ahead, seq)
		}
	}
	// The event follower may not have read these events yet, and may never read them.
	for seq, ids := range r.FreshOf {
		if seq > g.events {
			g.early[seq] = struct{}{}
			for _, w := range ids {
				g.account(w).removedBefore++
			}
		}
	}
}

// sweepAgainAndAgain removes expired events until the queue is closed. Only one relay at a
// time sweeps.
func (q *Queue) sweepAgainAndAgain() {
	var held *lock
	var keeping sync.WaitGroup
	ctx, cancel := context.WithCancel(q.closed)
	defer func() {
		cancel()
		keeping.Wait()
	}()
	var from uint64
	var redacting redactor
	for {
		select {
		case <-q.closed.Done():
			return
		case <-time.After(q.sweepEvery()):
		case <-q.limitsSet:
		}
		if s, err := q.info(q.closed, q.names.events(), ""); err == nil {
			q.size.note(s.bytes)
		}
		q.eraseLeft(q.closed)
		limits := q.limit()
		if limits.Retention <= 0 && limits.MaxDisk <= 0 && !redacts(limits) {
			continue
		}
		if held == nil || held.lost() {
			keeping.Wait()
			var err error
			if held, err = q.acquire(q.closed, "sweep", nil); err != nil {
				held = nil
				continue
			}
			keeping.Go(func() { held.keep(ctx) })
		}
		next, err := q.sweep(q.closed, held, from)
		if err != nil && q.closed.Err() == nil {
			q.o.Logger.Warn("removing old events failed; it is tried again", "error", err)
		}
		from = next
		if redacts(limits) {
			if err := redacting.round(q.closed, q, held, limits); err != nil && q.closed.Err() == nil {
				q.o.Logger.Warn("redacting old events failed; it is tried again", "error", err)
			}
		}
	}
}

func (q *Queue) sweepEvery() time.Duration {
	l := q.limit()
	every := sweepMost
	if l.Retention > 0 {
		every = l.Retention / 50
	}
	if redacts(l) {
		every = min(every, l.RedactAfter/50)
	}
	if l.MaxDisk > 0 {
		every = min(every, 200*time.Millisecond)
	}
	if l.Retention <= 0 && l.MaxDisk <= 0 && !redacts(l) {
		every = time.Second
	}
	return min(max(every, sweepLeast), sweepMost)
}

// verdict is the decision about one event.
type verdict struct {
	*storedEvent
	goes    bool
	young   bool
	records map[queue.WebhookID]record
	// deliveries are all deliveries of the event. keeps are those that its redaction keeps.
	deliveries []queue.Delivery
	keeps      []keptDelivery
}

// sweep judges events from a sequence number on, and removes those that may be removed. It
// returns where the next sweep continues; 0 means at the beginning.
func (q *Queue) sweep(ctx context.Context, held *lock, from uint64) (next uint64, err error) {
	limits := q.limit()
	s, err := q.info(ctx, q.names.events(), "")
	if err != nil {
		return from, err
	}
	before, _, err := q.lastRemoval(ctx)
	if err != nil {
		return from, err
	}
	q.size.note(s.bytes)
	if err := q.sweepState(ctx, limits, s); err != nil {
		return from, err
	}
	var excess int64
	if limits.MaxDisk > 0 {
		if excess = int64(s.bytes) - int64(nearMax*float64(limits.MaxDisk)); excess > 0 {
			from = 0 // remove the oldest first
		}
	}
	if limits.Retention <= 0 && excess <= 0 {
		return 0, nil
	}
	from = max(from, s.first)
	var gone []verdict
	young := 0
	for judged := 0; judged < sweepEvents && from <= s.last && len(gone) < sweepRemoves; judged += chunkEvents {
		if excess <= 0 && young >= 2*chunkEvents {
			break // all later events are even younger
		}
		places, err := q.places(ctx, from, min(from+chunkEvents-1, s.last))
		if err != nil {
			return from, err
		}
		chunk, err := q.resolve(ctx, places)
		if err != nil {
			return from, err
		}
		chunk = slices.DeleteFunc(chunk, func(e *storedEvent) bool { return q.erased.has(e.Feedback) })
		verdicts, err := q.judge(ctx, chunk, limits, excess > 0)
		if err != nil {
			return from, err
		}
		for _, v := range verdicts {
			if v.young {
				young++
			}
			if !v.goes {
				continue
			}
			if v.young { // it may only be removed to make room
				if excess <= 0 {
					continue
				}
			}
			excess -= int64(len(v.Body)) + 200
			gone = append(gone, v)
		}
		from += chunkEvents
	}
	if len(gone) > 0 && !held.lost() {
		removing, err := q.acquire(ctx, removing, nil)
		if errors.Is(err, errSequence) {
			return from, nil // feedback is being erased
		}
		if err != nil {
			return from, err
		}
		err = q.underLock(ctx, removing, func(ctx context.Context) error { return q.removeEvents(ctx, gone, before.Erased) })
		if err != nil {
			return from, err
		}
	}
	if from > s.last || young >= 2*chunkEvents {
		from = 0
	}
	return from, nil
}

// judge decides which events may be removed.
func (q *Queue) judge(ctx context.Context, events []*storedEvent, limits queue.Limits, early bool) ([]verdict, error) {
	verdicts := make([]verdict, len(events))
	var judged []*verdict
	for i, e := range events {
		verdicts[i] = verdict{storedEvent: e}
		if limits.Retention > 0 && time.Since(e.Created) < limits.Retention || limits.Retention <= 0 {
			verdicts[i].young = true
			if !early {
				continue
			}
		}
		judged = append(judged, &verdicts[i])
	}
	if err := each(judged, func(v *verdict) error { return q.judgeOne(ctx, v, limits) }); err != nil {
		return nil, err
	}
	gone := make(map[uint64]bool) // events of this round; the events that replace them may also be removed
	for i := range verdicts {
		v := &verdicts[i]
		// Keep an event as long as the event that it replaces. Otherwise the older one would
		// be the latest again.
		if v.goes && !v.Replaces.IsZero() && !gone[v.Replaces.Seq()] {
			if _, err := q.storedEvent(ctx, v.Replaces); err == nil {
				v.goes = false
			} else if !errors.Is(err, queue.ErrNotFound) {
				return nil, err
			}
		}
		if v.goes {
			gone[v.ID.Seq()] = true
		}
	}
	return verdicts, nil
}

// judgeOne decides about one event. It reads the records from the leader, so that it sees a
// delivery that was just requeued.
func (q *Queue) judgeOne(ctx context.Context, v *verdict, limits queue.Limits) (err error) {
	if v.records, err = q.readRecords(ctx, v.ID.Seq()); err != nil {
		return err
	}
	v.deliveries, err = q.deliveriesOf(ctx, v.storedEvent, v.records)
	if err != nil {
		return err
	}
	end := v.Created
	for _, d := range v.deliveries {
		w, exists := q.registry.get(d.ID.Webhook)
		if d.State.Waiting() && exists && (!w.Expires || q.isOwned(d.ID.Webhook)) {
			return nil
		}
		if d.State.Waiting() && exists && time.Since(v.Created) < limits.Retention {
			return nil
		}
		if d.Ended.After(end) && v.records[d.ID.Webhook].By != byRedaction {
			end = d.Ended
		}
	}
	v.goes = true
	v.young = limits.Retention <= 0 || time.Since(end) < limits.Retention
	return nil
}

// isOwned reports whether a relay delivers to a webhook. If so, the webhook is not parked
// on that relay, even if its record says so.
func (q *Queue) isOwned(w queue.WebhookID) bool {
	if l := q.laneOf(w); l != nil {
		return true
	}
	_, owned := q.peers.owner(laneLock(w))
	return owned
}

// removeEvents removes events, their records, and their share of the counts. It does nothing
// if feedback was erased after an erasing message, because some of the events may be gone.
func (q *Queue) removeEvents(ctx context.Context, gone []verdict, erased uint64) error {
	if removed, err := (&erasure{q: q}).complete(ctx); err != nil || removed {
		return err
	}
	r, seq, err := q.lastRemoval(ctx)
	if err != nil || r.Erased != erased {
		return err
	}
	r.Erasing, r.Redacted = 0, false
	if err := q.publishRemoval(ctx, r, seq, gone, q.ledger.cursor); err != nil {
		return err
	}
	_, err = (&erasure{q: q}).complete(ctx)
	return err
}

// publishRemoval subtracts events and their deliveries from the counts. r is the last
// removal, and seq its sequence number.
func (q *Queue) publishRemoval(ctx context.Context, r removal, seq uint64, gone []verdict, cursorOf func(queue.WebhookID) cursor) error {
	r.FreshOf = make(map[uint64][]queue.WebhookID)
	fresh := func(w queue.WebhookID, seq uint64) {
		r.Fresh[w]++
		if r.Erasing > 0 {
			r.FreshOf[seq] = append(r.FreshOf[seq], w)
		}
	}
	r.Events, r.Records, r.WereDelivered = nil, make(map[queue.WebhookID]queue.Counts), make(map[queue.WebhookID]int64)
	r.Holds = make(map[uint64]uint64)
	for _, v := range gone {
		r.Events = append(r.Events, v.ID.Seq())
		for _, d := range v.keeps {
			r.Kept[d.Webhook] = r.Kept[d.Webhook].add(d.State, 1)
		}
		for w, d := range v.kept {
			r.Kept[w] = r.Kept[w].add(d.State, -1)
		}
		if v.kept != nil {
			r.Holds[v.ID.Seq()] = v.place
		}
		for w, one := range v.records {
			if one.seq == 0 {
				continue
			}
			counts := r.Records[w]
			counts.Count(one.State, 1)
			r.Records[w] = counts
			if one.Origin == originDelivered {
				r.WereDelivered[w]++
				r.Delivered[w]++
			}
			if one.Origin == originFresh {
				if c := cursorOf(w); !c.has(v.ID.Seq()) {
					fresh(w, v.ID.Seq()) // the ledger lists it, but no cursor has taken it
				}
			}
		}
		for _, w := range v.webhooks {
			if _, kept := v.kept[w]; kept || v.records[w].seq > 0 {
				continue
			}
			if c := cursorOf(w); c.has(v.ID.Seq()) {
				r.Delivered[w]++
			} else {
				fresh(w, v.ID.Seq())
			}
		}
	}
	m := nats.NewMsg(q.names.sweep())
	if err := setHead(m, headerSweep, r); err != nil {
		return err
	}
	_, err := q.publish(ctx, m, after(seq))
	return err
}

// lastRemoval reads the last removal.
func (q *Queue) lastRemoval(ctx context.Context) (r removal, seq uint64, err error) {
	m, err := q.last(ctx, q.names.state(), q.names.sweep())
	if err == nil {
		err = m.head(headerSweep, &r)
		seq = m.seq
	}
	if r.Delivered == nil {
		r.Delivered = make(map[queue.WebhookID]int64)
	}
	if r.Fresh == nil {
		r.Fresh = make(map[queue.WebhookID]int64)
	}
	if r.Kept == nil {
		r.Kept = make(map[queue.WebhookID]keptCounts)
	}
	known := q.registry.all()
	forgotten := func(w queue.WebhookID, _ int64) bool { _, ok := known[w]; return !ok }
	maps.DeleteFunc(r.Delivered, forgotten)
	maps.DeleteFunc(r.Fresh, forgotten)
	maps.DeleteFunc(r.Kept, func(w queue.WebhookID, _ keptCounts) bool { return forgotten(w, 0) })
	return r, seq, ignoreNotFound(err)
}

// finishRemoval removes the events of a removal and their records. It may be called again
// for the same removal.
func (q *Queue) finishRemoval(ctx context.Context, r removal) error {
	if !r.removes() {
		return nil
	}
	s, err := q.info(ctx, q.names.events(), "")
	if err != nil {
		return err
	}
	// Remove the events at the stream's beginning together, and the others one by one.
	places := make([]uint64, len(r.Events))
	for i, seq := range r.Events {
		places[i] = cmp.Or(r.Holds[seq], seq)
	}
	slices.Sort(places)
	prefix, end := 0, s.first
	for prefix < len(places) && places[prefix] <= end {
		end = places[prefix] + 1
		prefix++
	}
	if prefix > 0 && end > s.first {
		if err := q.purge(ctx, q.names.events(), purge{Before: end}); err != nil {
			return err
		}
	}
	err = each(places[prefix:], func(seq uint64) error { return q.remove(ctx, q.names.events(), seq) })
	if err != nil {
		return err
	}
	err = each(slices.Collect(maps.Keys(r.Holds)), func(seq uint64) error {
		return q.purge(ctx, q.names.state(), purge{Subject: q.names.redacted(seq)})
	})
	if err != nil || len(r.Records) == 0 {
		return err
	}
	return each(r.Events, func(seq uint64) error {
		return q.purge(ctx, q.names.state(), purge{Subject: q.names.recordsOf(seq)})
	})
}

// each calls do for all values, several at a time, and returns the first error.
func each[T any](all []T, do func(T) error) error { return eachOf(atOnce, all, do) }

// eachOf is each with up to most at a time.
func eachOf[T any](most int, all []T, do func(T) error) error {
	var running errgroup.Group
	running.SetLimit(most)
	for _, one := range all {
		running.Go(func() error { return do(one) })
	}
	return running.Wait()
}

// sweepState removes activities that are too old, the oldest caught submissions beyond
// queue.MaxCaught, and the logs of removed events.
func (q *Queue) sweepState(ctx context.Context, limits queue.Limits, events streamState) error {
	if limits.Retention > 0 {
		all, err := q.rangeFrom(ctx, q.names.state(), q.names.activity(), 1, rangeMessages)
		if err != nil {
			return err
		}
		var old uint64
		for _, m := range all {
			if time.Since(m.at) >= limits.Retention {
				old = m.seq
			}
		}
		if old > 0 {
			if err := q.purge(ctx, q.names.state(), purge{Before: old + 1, Subject: q.names.activity()}); err != nil {
				return err
			}
		}
	}
	if q.sweptTo.Load() == events.first {
		return nil
	}
	if err := q.purge(ctx, q.names.state(), purge{Subject: q.names.caught(), Keep: queue.MaxCaught}); err != nil {
		return err
	}
	if err := q.purge(ctx, q.names.state(), purge{Subject: q.names.sweep(), Keep: 1}); err != nil {
		return err
	}
	s, err := q.info(ctx, q.names.state(), q.names.prefix+".l.*")
	if err != nil {
		return err
	}
	for subject := range s.subjects {
		if err := q.sweepLog(ctx, subject, events.first); err != nil {
			return err
		}
	}
	if s, err = q.info(ctx, q.names.state(), q.names.prefix+".g.>"); err != nil {
		return err
	}
	for subject := range s.subjects {
		if err := q.sweepKept(ctx, subject, events.first); err != nil {
			return err
		}
	}
	q.sweptTo.Store(events.first)
	return nil
}

// sweepKept removes a log that an erasure has stored again, if it holds only removed events.
func (q *Queue) sweepKept(ctx context.Context, subject string, first uint64) error {
	m, err := q.last(ctx, q.names.state(), subject)
	if err != nil {
		return ignoreNotFound(err)
	}
	c, _, err := readCursorMessage(m)
	if err != nil || c.Head >= first {
		return err
	}
	return q.purge(ctx, q.names.state(), purge{Subject: subject})
}

// sweepLog removes cursors whose log holds only removed events. It keeps the last cursor.
func (q *Queue) sweepLog(ctx context.Context, subject string, first uint64) error {
	last, err := q.last(ctx, q.names.state(), subject)
	if err != nil {
		return ignoreNotFound(err)
	}
	for {
		all, err := q.rangeFrom(ctx, q.names.state(), subject, 1, rangeMessages)
		if err != nil {
			return err
		}
		var old uint64
		for _, m := range all {
			c, _, err := readCursorMessage(&message{seq: m.seq, subject: m.subject, header: m.header})
			if err != nil {
				return err
			}
			if c.Head >= first || m.seq >= last.seq {
				break
			}
			old = m.seq
		}
		if old == 0 {
			return nil
		}
		if err := q.purge(ctx, q.names.state(), purge{Before: old + 1, Subject: subject}); err != nil {
			return err
		}
		if len(all) < rangeMessages {
			return nil
		}
	}
}
