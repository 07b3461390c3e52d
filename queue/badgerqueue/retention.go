package badgerqueue

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/layout"
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

const (
	// sweepMost is the longest time between two rounds of the sweep.
	sweepMost = 10 * time.Second
	// filesEvery is how often the store takes other users' access to new files away.
	filesEvery = time.Second
	// sweepBatch is the most events that one transaction removes. So a new event waits
	// no longer for a sweep than for a busy batch.
	sweepBatch = 128
	// sweepScan is the most events that one step reads.
	sweepScan  = 16384
	orphanKeys = 1024
	// attemptsAtOnce is the most attempts that are removed in the same transaction as
	// their event.
	attemptsAtOnce = 4096
)

// sweep removes the events that retention and max_disk do not keep, until the store
// stops.
//
// It reads the events in order, with a cursor, when they are older than the retention.
// If an event's last delivery ended long enough ago, the sweep removes the event. If it
// ended later, the event gets an X key, by which the sweep finds it when its time has
// come. If a delivery still waits, the settlement that ends it writes the X key. So the
// sweep reads no event twice without need, and a delivery that waits for a year costs
// nothing.
func (s *Store) sweep() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		<-s.stop
		cancel()
	}()
	tick, files := time.NewTicker(s.sweepEvery()), time.NewTicker(filesEvery)
	defer tick.Stop()
	defer files.Stop()
	var made time.Time // when the folder last changed, as closeNewFiles saw it
	space := reclaimer{s: s}
	s.orphans.Store(true)
	for {
		select {
		case <-ctx.Done():
			return
		case <-files.C:
			s.closeNewFiles(&made)
			continue
		case <-s.limited:
			tick.Reset(s.sweepEvery())
			continue
		case <-tick.C:
		}
		s.lookAtClock(ctx)
		s.disk.Measure()
		if !s.disk.RoomToWrite() {
			continue
		}
		space.watch()
		space.freeMemory(s.compactions.Ended())
		err := space.measure(ctx)
		if err != nil && ctx.Err() == nil {
			s.log.Error("keeping what the store's files hold", "error", err)
		}
		removed, err := s.sweepOnce(ctx, space.excess())
		if err != nil && ctx.Err() == nil {
			s.log.Error("removing old events", "error", err)
		}
		if err := space.reclaim(ctx, removed); err != nil && ctx.Err() == nil {
			s.log.Warn("giving back space", "error", err)
		}
	}
}

// sweepEvery returns the time between two rounds of the sweep.
func (s *Store) sweepEvery() time.Duration {
	every := max(min(s.keep()/20, sweepMost), s.bounds.sweep)
	if r := s.redaction.Load(); r != nil {
		every = max(min(every, r.after/20), s.bounds.sweep)
	}
	if s.disk.Max() > 0 {
		every = min(every, time.Second)
	}
	return every
}

// keep returns the retention.
func (s *Store) keep() time.Duration { return time.Duration(s.retention.Load()) }

// SetLimits replaces the limits; the new ones apply at once. A retention of 0 means the
// default.
func (s *Store) SetLimits(l queue.Limits) {
	if l.Retention == 0 {
		l.Retention = defaultRetention
	}
	s.retention.Store(int64(l.Retention))
	s.redaction.Store(nil)
	if l.RedactAfter > 0 && l.Redact != nil {
		s.redaction.Store(&redaction{after: l.RedactAfter, document: l.Redact})
	}
	s.disk.SetMax(l.MaxDisk)
	select {
	case s.limited <- struct{}{}:
	default:
	}
}

// closeNewFiles takes other users' access to the store's files away if the folder has
// changed since last.
func (s *Store) closeNewFiles(last *time.Time) {
	info, err := os.Stat(s.o.Path)
	if err != nil || info.ModTime().Equal(*last) {
		return
	}
	if err := storefile.CloseFiles(s.o.Path); err != nil {
		s.log.Warn("the store's files", "error", err)
	}
	*last = info.ModTime()
}

// lookAtClock wakes the lanes if the machine slept, because their timers stood still. If
// the time of day was set, it writes the change to the disk.
func (s *Store) lookAtClock(ctx context.Context) {
	if s.clock.ReadSlept() > 0 {
		s.wakeLanes()
	}
	if !s.clock.MovedFrom(s.shown.Load().Shift) {
		return
	}
	err := s.commit(ctx, 2, 256, func(*batch) error { return nil }) // every batch writes the change
	if err != nil && ctx.Err() == nil {
		s.log.Warn("keeping the time", "error", err)
	}
}

// pass is one round of the sweep.
type pass struct {
	// old is the end of the retention, by the store's clock: an event whose last delivery
	// ended at old expires now.
	old time.Time
	// look is how far the pass reads: it leaves events alone that were accepted after
	// look, unless it removes events early. It is old, or, with redaction, the acceptance
	// time of the events that are due for redaction now.
	look time.Time
	// excess is how many bytes of finished events to remove before they expire.
	excess int64
	// removed is about how many bytes the pass has removed so far.
	removed int64
	// from is the X key at which the sweep continues.
	from layout.Waiting
	// held is set when the sweep has passed an X key that it keeps.
	held bool
}

// early reports whether the pass must remove more finished events before they expire.
func (p *pass) early() bool { return p.removed < p.excess }

// sweepOnce removes the events that have expired. If they are less than excess bytes, it
// also removes the oldest finished events, up to excess bytes in all. It returns about
// how many bytes it removed.
func (s *Store) sweepOnce(ctx context.Context, excess int64) (removed int64, err error) {
	now := s.clock.Now()
	p := pass{old: now.Add(-s.keep())}
	p.look = p.old
	redaction := s.redaction.Load()
	if redaction != nil {
		p.look = now.Add(-redaction.after)
	}
	for {
		p.from, p.held = layout.Waiting{Due: s.shown.Load().Ended}, false
		for _, step := range []func(context.Context, *pass) (bool, error){s.sweepEnded, s.sweepSequence} {
			for more := true; more; {
				if more, err = step(ctx, &p); err != nil {
					return p.removed, err
				}
			}
		}
		// The first round removes only expired events, wherever they are.
		if p.excess == excess || excess <= p.removed {
			break
		}
		p.excess = excess
	}
	if redaction != nil {
		n, err := s.sweepRedacted(ctx, redaction, p.look)
		if p.removed += n; err != nil {
			return p.removed, err
		}
	}
	if s.orphans.Swap(false) {
		if err := s.sweepOrphans(ctx); err != nil {
			s.orphans.Store(true)
			return p.removed, err
		}
	}
	return p.removed, s.sweepActivities(ctx, p.old)
}

// finished is an event that may be removed, as the sweep saw it.
type finished struct {
	seq      uint64
	feedback queue.FeedbackID
	attempts []storedAttempt
	size     int64     // bytes, without the record of its deliveries
	created  time.Time // by the store's clock
	ended    time.Time
	parked   bool           // deliveries wait, all of them for parked webhooks
	key      layout.Waiting // its X key; due is 0 if it has none
}

// step collects what one transaction of the sweep does.
type step struct {
	gone  []finished
	later []finished // events that get an X key, because they may not be removed yet
	stale [][]byte   // X keys of events that are removed, or have waiting deliveries
	size  int64      // about how many bytes gone takes
}

// full reports whether the step needs no more events.
func (st *step) full(p *pass) bool {
	return len(st.gone)+len(st.later)+len(st.stale) >= sweepBatch || p.early() && p.removed+st.size >= p.excess
}

func (st *step) take(f finished) {
	st.gone = append(st.gone, f)
	st.size += f.size
}

// sweepSequence does one step from the sweep cursor. More reports whether another step
// may have work now.
func (s *Store) sweepSequence(ctx context.Context, p *pass) (more bool, err error) {
	from, rewound, err := s.announceSweep(ctx, p)
	if err != nil || from == 0 {
		return false, err
	}
	defer s.sweeping.Store(0) // by then the cursor has been committed
	var st step
	swept := from
	err = s.view(ctx, func(txn *badger.Txn) error {
		return scan(txn, []byte{layout.PrefixEvent}, layout.EventKey(from), func(key, rec []byte) (bool, error) {
			seq := layout.SeqOf(key)
			if st.full(p) || seq >= from+sweepScan {
				more = true
				return false, nil
			}
			e, err := decodeEvent(key, rec, s.tags)
			if err != nil {
				_ = s.report("removing old events", err)
				swept = seq + 1
				return true, nil
			}
			created, young := s.young(&e.Event, p.look)
			if young && !p.early() {
				return false, nil
			}
			ds, err := getDeliveries(txn, seq)
			if err != nil {
				_ = s.report("removing old events", err)
				swept = seq + 1
				return true, nil
			}
			swept = seq + 1
			f := finished{seq: seq, created: created, ended: endedAt(created, ds), parked: s.waits(ds, false)}
			switch {
			case s.waits(ds, true): // its settlement writes the X key
			case f.mayGo(p):
				st.take(s.measured(txn, f, &e.Event, e.size()))
			default:
				st.later = append(st.later, f)
			}
			return true, nil
		})
	})
	if err != nil || swept == from {
		return false, err
	}
	removed, err := s.remove(ctx, &st, func(b *batch) error {
		if b.stateOf.Rewound == rewound { // otherwise the sweep starts again at the first event
			b.stateOf.Swept = max(b.stateOf.Swept, swept)
		}
		return nil
	})
	p.removed += removed
	return more, err
}

// mayGo reports whether this pass may remove an event. An event whose deliveries wait for
// parked webhooks is removed only after it has expired.
func (f *finished) mayGo(p *pass) bool {
	return !f.ended.After(p.old) || p.early() && !f.parked
}

// announceSweep finds the event at which the sweep continues, and tells the committer how
// far the step may go. It returns from 0 if no event is old enough.
//
// If a delivery still waits when the sweep passes its event, its settlement must write
// the X key. This also holds for a settlement that is committed after the sweep has read
// the event and before the cursor has moved. So announceSweep publishes the end of the
// step and waits for one commit. After that commit the sweep sees every settlement that
// did not know of the step.
//
// Rewound counts how often the cursor was put back. If the count changes during a step,
// the step must not move the cursor.
func (s *Store) announceSweep(ctx context.Context, p *pass) (from, rewound uint64, err error) {
	st := s.shown.Load()
	err = s.view(ctx, func(txn *badger.Txn) error {
		return scan(txn, []byte{layout.PrefixEvent}, layout.EventKey(st.Swept), func(key, rec []byte) (bool, error) {
			e, err := decodeEvent(key, rec, s.tags)
			if err == nil && !p.early() {
				if _, young := s.young(&e.Event, p.look); young {
					return false, nil
				}
			}
			from = layout.SeqOf(key) // the sweep reports an event that cannot be read
			return false, nil
		})
	})
	if err != nil || from == 0 {
		return 0, 0, err
	}
	s.sweeping.Store(from + sweepScan)
	return from, st.Rewound, s.commit(ctx, 2, 256, func(*batch) error { return nil })
}

// young reports whether an event was accepted after old, and returns when it was accepted
// by the store's clock. An event dated ahead of that clock is not young, because its date
// is wrong.
func (s *Store) young(e *queue.Event, old time.Time) (created time.Time, young bool) {
	created, ahead := s.clock.Own(e.Created)
	return created, created.After(old) && !ahead
}

// sweepEnded reads the X keys. It removes the events behind the cursor whose time has
// come. An event that was delivered again after its X key was written gets a new key.
func (s *Store) sweepEnded(ctx context.Context, p *pass) (more bool, err error) {
	var st step
	looked := 0
	low := s.shown.Load().Ended
	err = s.view(ctx, func(txn *badger.Txn) error {
		scanKeys(txn, []byte{layout.PrefixEnded}, layout.EndedKey(p.from), func(key []byte) bool {
			at := layout.Waiting{Due: int64(binary.BigEndian.Uint64(key[1:])), Seq: binary.BigEndian.Uint64(key[9:])}
			if at.Due > p.old.UnixNano() && !p.early() {
				return false
			}
			if looked++; st.full(p) || looked > sweepScan {
				more = true
				return false
			}
			p.from = next(at)
			if !p.held {
				low = at.Due
			}
			e, size, err := s.readEvent(txn, at.Seq, decodeEvent)
			if err != nil {
				st.stale = append(st.stale, layout.EndedKey(at))
				return true
			}
			ds, err := getDeliveries(txn, at.Seq)
			if err != nil || s.waits(ds, true) { // its settlement writes a new key
				st.stale = append(st.stale, layout.EndedKey(at))
				return true
			}
			created, ahead := s.clock.Own(e.Created)
			if ahead { // its date is wrong, so use the time in the X key
				created = fromUnixNano(at.Due)
			}
			f := finished{seq: at.Seq, created: created, ended: endedAt(created, ds), parked: s.waits(ds, false), key: at}
			switch {
			case f.ended.UnixNano() > at.Due: // it was delivered again
				st.later = append(st.later, f)
			case f.mayGo(p):
				st.take(s.measured(txn, f, &e, size))
			default:
				p.held = true
			}
			return true
		})
		return nil
	})
	if err != nil || len(st.gone)+len(st.later)+len(st.stale) == 0 {
		return more && err == nil, err
	}
	removed, err := s.remove(ctx, &st, func(b *batch) error {
		b.stateOf.Ended = max(b.stateOf.Ended, low)
		return nil
	})
	p.removed += removed
	return more, err
}

// endedAt returns when the last delivery of an event ended. If no delivery has ended, it
// returns when the event was accepted.
func endedAt(created time.Time, ds deliveries) time.Time {
	ended := created
	for _, d := range ds {
		if at := fromUnixNano(d.at); !d.state.Waiting() && at.After(ended) {
			ended = at
		}
	}
	return ended
}

// storedAttempt is an attempt that has a record of its own.
type storedAttempt struct {
	key  []byte
	size int
}

// measured adds the event's attempts, and the bytes that they and the event take.
func (s *Store) measured(txn *badger.Txn, f finished, e *queue.Event, size int) finished {
	f.feedback, f.size = e.Feedback, int64(size)
	_ = scanItems(txn, layout.SeqKey(layout.PrefixAttempt, f.seq), nil, func(item *badger.Item) (bool, error) {
		a := storedAttempt{key: item.KeyCopy(nil), size: int(item.KeySize()+item.ValueSize()) + entryOverhead}
		f.attempts = append(f.attempts, a)
		f.size += int64(a.size)
		return true, nil
	})
	return f
}

// remove commits a step. The committer calls then, and checks each event again before it
// removes it. remove returns about how many bytes it removed.
func (s *Store) remove(ctx context.Context, st *step, then func(b *batch) error) (int64, error) {
	entries, bytes := 8+2*len(st.later)+len(st.stale), 1024+96*len(st.later)+48*len(st.stale)
	for _, f := range st.gone {
		entries += 6 + len(f.attempts)
		bytes += 256 + 40*len(f.attempts) + len(f.feedback.ID) + len(f.feedback.Project)
	}
	maxEntries, maxBytes := transactionRoom(s.db)
	if len(st.gone) > 1 && (entries > maxEntries/2 || bytes > maxBytes/2) {
		return s.removeHalves(ctx, st, then)
	}
	if len(st.gone) == 1 && len(st.gone[0].attempts) > attemptsAtOnce {
		if err := s.removeAttempts(ctx, &st.gone[0]); err != nil {
			return 0, err
		}
	}
	var removed int64 // owned by the committer until commit returns without an error
	err := s.commit(ctx, entries, bytes, func(b *batch) error {
		removed = 0
		if err := then(b); err != nil {
			return err
		}
		for _, key := range st.stale {
			if err := b.delete(key); err != nil {
				return err
			}
		}
		for _, f := range st.later {
			ds, err := b.deliveriesOf(f.seq)
			if err == nil {
				err = b.keep(f, ds)
			}
			if err != nil {
				return err
			}
		}
		for _, f := range st.gone {
			ok, err := b.remove(f)
			if err != nil {
				return err
			}
			if ok {
				removed += f.size
			}
		}
		return nil
	})
	if errors.Is(err, queue.ErrTooLarge) && len(st.gone) > 1 { // the events have more parked deliveries than fit in one transaction
		return s.removeHalves(ctx, st, then)
	}
	if err != nil {
		return 0, err
	}
	return removed, nil
}

// removeHalves commits a step as two steps of half the events.
func (s *Store) removeHalves(ctx context.Context, st *step, then func(b *batch) error) (int64, error) {
	half := len(st.gone) / 2
	n, err := s.remove(ctx, &step{gone: st.gone[:half]}, func(*batch) error { return nil })
	if err != nil {
		return n, err
	}
	m, err := s.remove(ctx, &step{gone: st.gone[half:], later: st.later, stale: st.stale}, then)
	return n + m, err
}

// removeAttempts removes the attempts of an event before the event itself, because they
// may not fit in one transaction.
func (s *Store) removeAttempts(ctx context.Context, f *finished) error {
	for some := range slices.Chunk(f.attempts, attemptsAtOnce) {
		size := 0
		err := s.commit(ctx, len(some), 40*len(some), func(b *batch) error {
			size = 0
			if ds, err := b.deliveriesOf(f.seq); err != nil || b.s.waits(ds, f.parked) {
				return err
			}
			for _, a := range some {
				if err := b.delete(a.key); err != nil {
					return err
				}
				size += a.size
			}
			b.grow(-size)
			return nil
		})
		if err != nil {
			return err
		}
		f.size -= int64(size)
	}
	f.attempts = nil
	return nil
}

// keep replaces the X key of an event behind the sweep cursor, so that the sweep finds the
// event when it may be removed. If a delivery of the event waits, keep writes no key: the
// settlement will write it.
func (b *batch) keep(f finished, ds deliveries) error {
	if f.key.Due != 0 {
		if err := b.delete(layout.EndedKey(f.key)); err != nil {
			return err
		}
	}
	if b.s.waits(ds, true) {
		return nil
	}
	return b.find(layout.Waiting{Due: endedAt(f.created, ds).UnixNano(), Seq: f.seq})
}

// remove removes one event. It keeps the event if a delivery waits again, or was made
// again after the sweep read the event.
func (b *batch) remove(f finished) (bool, error) {
	if !b.has(layout.EventKey(f.seq)) { // erased in the meantime
		return false, nil
	}
	ds, err := b.deliveriesOf(f.seq)
	if err != nil {
		return false, err
	}
	if b.s.waits(ds, f.parked) || !endedAt(f.created, ds).Equal(f.ended) {
		return false, b.keep(f, ds)
	}
	if f.key.Due != 0 {
		if err := b.delete(layout.EndedKey(f.key)); err != nil {
			return false, err
		}
	}
	for _, a := range f.attempts {
		if err := b.delete(a.key); err != nil {
			return false, err
		}
	}
	return true, b.removeEvent(f.seq, f.feedback, int(f.size), ds)
}

// removeEvent removes an event with its deliveries. The caller has removed its attempts.
// size is the bytes that the event and its attempts take in the files, without the record
// of the deliveries.
func (b *batch) removeEvent(seq uint64, id queue.FeedbackID, size int, ds deliveries) error {
	for _, d := range ds {
		h := b.webhook(d.webhook)
		if h == nil {
			continue
		}
		if at, ok := d.waitsAt(seq); ok {
			if err := b.delete(layout.WaitingKey(d.webhook, d.rung, at)); err != nil {
				return err
			}
		}
		b.count(h, d.state, -1)
	}
	keys := [][]byte{layout.EventKey(seq)}
	if len(ds) > 0 {
		keys = append(keys, layout.DeliveriesKey(seq))
	}
	if !id.IsZero() {
		held, err := b.s.lookUp(b.txn, id)
		if err != nil {
			return err
		}
		if held.is && held.Seq == seq { // otherwise the feedback has a newer event
			keys = append(keys, held.key(id))
		}
	}
	for _, key := range keys {
		if err := b.delete(key); err != nil {
			return err
		}
	}
	b.retire(seq)
	b.stateOf.Events--
	b.grow(-size - b.stored[seq])
	return nil
}

// sweepActivities removes lines of the activity log that are older than the
// retention.
func (s *Store) sweepActivities(ctx context.Context, old time.Time) error {
	before := layout.ActivityKey(old.Add(s.clock.Shift()).UnixNano(), 0)
	for {
		var keys [][]byte
		err := s.view(ctx, func(txn *badger.Txn) error {
			scanKeys(txn, []byte{layout.PrefixActivity}, s.logged, func(key []byte) bool {
				if bytes.Compare(key, before) >= 0 || len(keys) >= orphanKeys {
					return false
				}
				keys = append(keys, bytes.Clone(key))
				return true
			})
			return nil
		})
		if err != nil || len(keys) == 0 {
			return err
		}
		if err := s.deleteKeys(ctx, keys); err != nil {
			return err
		}
		s.logged = keys[len(keys)-1]
	}
}

// deleteKeys deletes keys whose removal changes no other record and no counter.
func (s *Store) deleteKeys(ctx context.Context, keys [][]byte) error {
	return s.commit(ctx, len(keys), 64*len(keys), func(b *batch) error {
		for _, key := range keys {
			if err := b.delete(key); err != nil {
				return err
			}
		}
		return nil
	})
}

// sweepOrphans removes the R keys of webhooks that were deleted.
func (s *Store) sweepOrphans(ctx context.Context) error {
	for w := queue.WebhookID(0); ; {
		var keys [][]byte
		found := false
		err := s.view(ctx, func(txn *badger.Txn) error {
			scanKeys(txn, []byte{layout.PrefixWaiting}, layout.WaitingPrefix(w), func(key []byte) bool {
				id, _, ok := layout.ParseWaitingKey(key)
				if !ok {
					return true
				}
				if found && id != w || len(keys) >= orphanKeys {
					return false
				}
				found, w = true, id
				if s.webhook(id) != nil {
					return false
				}
				keys = append(keys, append([]byte(nil), key...))
				return true
			})
			return nil
		})
		if err != nil || !found {
			return err
		}
		if len(keys) == 0 {
			w++ // the webhook exists
			continue
		}
		if err := s.deleteKeys(ctx, keys); err != nil {
			return err
		}
	}
}
