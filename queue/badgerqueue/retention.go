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
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

const (
	// sweepMost is the longest time between two looks of the sweep.
	sweepMost = 10 * time.Second
	// filesEvery is how often new files are closed to other users.
	filesEvery = time.Second
	// sweepBatch bounds the events of one transaction, so that accepting waits
	// no longer for a sweep than for a busy batch.
	sweepBatch = 128
	// sweepScan bounds the events one step looks at.
	sweepScan  = 16384
	orphanKeys = 1024
	// attemptsAtOnce bounds the attempts that are removed in one transaction with
	// their event.
	attemptsAtOnce = 4096
)

// sweep removes what retention and max_disk say, until the store stops.
//
// It walks the sequence with a cursor. An event is judged once its age exceeds
// the retention: one that ended long enough ago goes; one that ended later gets
// an X key, to be found when its time has come; one that still waits gets its X
// key from the settlement that ends it. So no event is looked at twice in vain,
// and a delivery that waits for a year costs nothing.
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
	var made time.Time // the newest file that was closed to others
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

// sweepEvery is how often the sweep looks.
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

// keep is the retention.
func (s *Store) keep() time.Duration { return time.Duration(s.retention.Load()) }

// SetLimits has other limits count from now on. A retention of 0 is the default.
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

// closeNewFiles closes files to others that Badger has made since last.
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

// lookAtClock has the lanes look again where the machine slept through their
// timers, and keeps how far the time of day was set meanwhile.
func (s *Store) lookAtClock(ctx context.Context) {
	if s.clock.ReadSlept() > 0 {
		s.wakeLanes()
	}
	if !s.clock.MovedFrom(s.shown.Load().shift) {
		return
	}
	err := s.commit(ctx, 2, 256, func(*batch) error { return nil }) // every batch keeps it
	if err != nil && ctx.Err() == nil {
		s.log.Warn("keeping the time", "error", err)
	}
}

// pass is one round of the sweep.
type pass struct {
	// old is the time, by the store's clock, at which what expires now ended.
	old time.Time
	// look is the time since when what was accepted is not looked at: old, or that of what
	// is redacted now.
	look time.Time
	// excess is how many bytes of finished events go before they expire.
	excess int64
	// removed is about how many bytes went so far.
	removed int64
	// from is where the sweep goes on among the X keys.
	from waiting
	// held says that the sweep has passed an X key that stays.
	held bool
}

// early reports whether finished events go before they expire.
func (p *pass) early() bool { return p.removed < p.excess }

// sweepOnce removes what may go now, and of finished events that may stay for a
// while the oldest, up to excess bytes. It returns about how many bytes went.
func (s *Store) sweepOnce(ctx context.Context, excess int64) (removed int64, err error) {
	now := s.clock.Now()
	p := pass{old: now.Add(-s.keep())}
	p.look = p.old
	redaction := s.redaction.Load()
	if redaction != nil {
		p.look = now.Add(-redaction.after)
	}
	for {
		p.from, p.held = waiting{due: s.shown.Load().ended}, false
		for _, step := range []func(context.Context, *pass) (bool, error){s.sweepEnded, s.sweepSequence} {
			for more := true; more; {
				if more, err = step(ctx, &p); err != nil {
					return p.removed, err
				}
			}
		}
		// What has expired goes first, wherever it is.
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

// finished is an event that may go, as the sweep saw it.
type finished struct {
	seq      uint64
	feedback queue.FeedbackID
	attempts []storedAttempt
	size     int64     // without its deliveries' record
	created  time.Time // by the store's clock
	ended    time.Time
	parked   bool    // what waits is parked, and has expired
	key      waiting // its X key, where due is not 0
}

// step collects what one transaction of the sweep does.
type step struct {
	gone  []finished
	later []finished // to be found by an X key when it may go
	stale [][]byte   // X keys of events that are gone or wait
	size  int64      // of gone, about
}

// full reports whether the step has enough to do.
func (st *step) full(p *pass) bool {
	return len(st.gone)+len(st.later)+len(st.stale) >= sweepBatch || p.early() && p.removed+st.size >= p.excess
}

func (st *step) take(f finished) {
	st.gone = append(st.gone, f)
	st.size += f.size
}

// sweepSequence goes on from the sweep cursor. More reports that there may be more
// to do at once.
func (s *Store) sweepSequence(ctx context.Context, p *pass) (more bool, err error) {
	from, rewound, err := s.announceSweep(ctx, p)
	if err != nil || from == 0 {
		return false, err
	}
	defer s.sweeping.Store(0) // the cursor is where it may be by then
	var st step
	swept := from
	err = s.view(ctx, func(txn *badger.Txn) error {
		return scan(txn, []byte{prefixEvent}, eventKey(from), func(key, rec []byte) (bool, error) {
			seq := seqOf(key)
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
			created, young := s.young(&e, p.look)
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
			case s.waits(ds, true): // its settlement leaves an X key
			case f.mayGo(p):
				st.take(s.measured(txn, f, &e))
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
		if b.stateOf.rewound == rewound { // else the sweep begins anew, from the first event
			b.stateOf.swept = max(b.stateOf.swept, swept)
		}
		return nil
	})
	p.removed += removed
	return more, err
}

// mayGo reports whether an event goes in this pass. Before its time goes only what
// does not wait: what is parked waits until it has expired.
func (f *finished) mayGo(p *pass) bool {
	return !f.ended.After(p.old) || p.early() && !f.parked
}

// announceSweep finds where the sweep goes on, and has the committer know how far
// that may be; 0 is that nothing is old enough. What is still waiting when the
// sweep passes it leaves its X key when it is settled, and the settlement must know
// that it is to: also one that is committed after the sweep has looked and before
// the cursor has moved. So the end of the step is announced, and a commit later
// every settlement that did not know is visible to the sweep.
//
// Rewound is how often the cursor had been put back before the sweep looked. A step
// that looked before that must not move it.
func (s *Store) announceSweep(ctx context.Context, p *pass) (from, rewound uint64, err error) {
	st := s.shown.Load()
	err = s.view(ctx, func(txn *badger.Txn) error {
		return scan(txn, []byte{prefixEvent}, eventKey(st.swept), func(key, rec []byte) (bool, error) {
			e, err := decodeEvent(key, rec, s.tags)
			if err == nil && !p.early() {
				if _, young := s.young(&e, p.look); young {
					return false, nil
				}
			}
			from = seqOf(key) // what cannot be read is the sweep's to report
			return false, nil
		})
	})
	if err != nil || from == 0 {
		return 0, 0, err
	}
	s.sweeping.Store(from + sweepScan)
	return from, st.rewound, s.commit(ctx, 2, 256, func(*batch) error { return nil })
}

// young reports whether an event was accepted after old, and when that was by the
// store's clock. One from ahead of that clock is not: its date says nothing.
func (s *Store) young(e *queue.Event, old time.Time) (created time.Time, young bool) {
	created, ahead := s.clock.Own(e.Created)
	return created, created.After(old) && !ahead
}

// sweepEnded goes through the X keys: it removes events behind the cursor whose time
// has come, and gives those that were delivered again since a new key.
func (s *Store) sweepEnded(ctx context.Context, p *pass) (more bool, err error) {
	var st step
	looked := 0
	low := s.shown.Load().ended
	err = s.view(ctx, func(txn *badger.Txn) error {
		scanKeys(txn, []byte{prefixEnded}, endedKey(p.from), func(key []byte) bool {
			at := waiting{due: int64(binary.BigEndian.Uint64(key[1:])), seq: binary.BigEndian.Uint64(key[9:])}
			if at.due > p.old.UnixNano() && !p.early() {
				return false
			}
			if looked++; st.full(p) || looked > sweepScan {
				more = true
				return false
			}
			p.from = next(at)
			if !p.held {
				low = at.due
			}
			e, err := s.getEvent(txn, at.seq)
			if err != nil {
				st.stale = append(st.stale, endedKey(at))
				return true
			}
			ds, err := getDeliveries(txn, at.seq)
			if err != nil || s.waits(ds, true) { // its settlement leaves a new key
				st.stale = append(st.stale, endedKey(at))
				return true
			}
			created, ahead := s.clock.Own(e.Created)
			if ahead { // its date says nothing: what counts is when the sweep saw it
				created = fromUnixNano(at.due)
			}
			f := finished{seq: at.seq, created: created, ended: endedAt(created, ds), parked: s.waits(ds, false), key: at}
			switch {
			case f.ended.UnixNano() > at.due: // it was delivered again
				st.later = append(st.later, f)
			case f.mayGo(p):
				st.take(s.measured(txn, f, &e))
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
		b.stateOf.ended = max(b.stateOf.ended, low)
		return nil
	})
	p.removed += removed
	return more, err
}

// endedAt is when the last delivery ended; without deliveries, or with parked
// ones alone, when the event was accepted.
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

// measured adds what an event takes.
func (s *Store) measured(txn *badger.Txn, f finished, e *queue.Event) finished {
	f.feedback, f.size = e.Feedback, int64(eventSize(e))
	_ = scanItems(txn, seqKey(prefixAttempt, f.seq), nil, func(item *badger.Item) (bool, error) {
		a := storedAttempt{key: item.KeyCopy(nil), size: int(item.KeySize()+item.ValueSize()) + entryOverhead}
		f.attempts = append(f.attempts, a)
		f.size += int64(a.size)
		return true, nil
	})
	return f
}

// remove does a step: the committer checks each event again, and then does what
// else belongs to the step. It returns about how many bytes went.
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
	var removed int64 // the committer's, until commit has returned without an error
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
	if errors.Is(err, queue.ErrTooLarge) && len(st.gone) > 1 { // they have more parked deliveries than one transaction holds
		return s.removeHalves(ctx, st, then)
	}
	if err != nil {
		return 0, err
	}
	return removed, nil
}

// removeHalves is remove in smaller steps.
func (s *Store) removeHalves(ctx context.Context, st *step, then func(b *batch) error) (int64, error) {
	half := len(st.gone) / 2
	n, err := s.remove(ctx, &step{gone: st.gone[:half]}, func(*batch) error { return nil })
	if err != nil {
		return n, err
	}
	m, err := s.remove(ctx, &step{gone: st.gone[half:], later: st.later, stale: st.stale}, then)
	return n + m, err
}

// removeAttempts removes the attempts of an event that goes, before it: they may
// be more than one transaction holds.
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

// keep gives an event behind the sweep cursor the X key by which it is found when
// it may go. One that waits gets it from its settlement.
func (b *batch) keep(f finished, ds deliveries) error {
	if f.key.due != 0 {
		if err := b.delete(endedKey(f.key)); err != nil {
			return err
		}
	}
	if b.s.waits(ds, true) {
		return nil
	}
	return b.find(waiting{due: endedAt(f.created, ds).UnixNano(), seq: f.seq})
}

// remove takes one event out. It is kept if it waits again, or was delivered again
// since the sweep saw it.
func (b *batch) remove(f finished) (bool, error) {
	if !b.has(eventKey(f.seq)) { // erased since
		return false, nil
	}
	ds, err := b.deliveriesOf(f.seq)
	if err != nil {
		return false, err
	}
	if b.s.waits(ds, f.parked) || !endedAt(f.created, ds).Equal(f.ended) {
		return false, b.keep(f, ds)
	}
	if f.key.due != 0 {
		if err := b.delete(endedKey(f.key)); err != nil {
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

// removeEvent takes an event out, with its deliveries. Its attempts are removed
// already. size is what both take in the files, without the record of the deliveries.
func (b *batch) removeEvent(seq uint64, id queue.FeedbackID, size int, ds deliveries) error {
	for _, d := range ds {
		h := b.webhook(d.webhook)
		if h == nil {
			continue
		}
		if at, ok := d.waitsAt(seq); ok {
			if err := b.delete(waitingKey(d.webhook, d.rung, at)); err != nil {
				return err
			}
		}
		b.count(h, d.state, -1)
	}
	keys := [][]byte{eventKey(seq)}
	if len(ds) > 0 {
		keys = append(keys, deliveriesKey(seq))
	}
	if !id.IsZero() {
		held, err := b.s.lookUp(b.txn, id)
		if err != nil {
			return err
		}
		if held.is && held.seq == seq { // else it has a newer event
			keys = append(keys, held.key(id))
		}
	}
	for _, key := range keys {
		if err := b.delete(key); err != nil {
			return err
		}
	}
	b.retire(seq)
	b.stateOf.events--
	b.grow(-size - b.stored[seq])
	return nil
}

// sweepActivities removes lines of the activity log that are older than the
// retention.
func (s *Store) sweepActivities(ctx context.Context, old time.Time) error {
	before := activityKey(old.Add(s.clock.Shift()).UnixNano(), 0)
	for {
		var keys [][]byte
		err := s.view(ctx, func(txn *badger.Txn) error {
			scanKeys(txn, []byte{prefixActivity}, s.logged, func(key []byte) bool {
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

// deleteKeys removes keys that nothing else is known of.
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
			scanKeys(txn, []byte{prefixWaiting}, waitingPrefix(w), func(key []byte) bool {
				id, _, ok := parseWaitingKey(key)
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
			w++ // a webhook that lives
			continue
		}
		if err := s.deleteKeys(ctx, keys); err != nil {
			return err
		}
	}
}
