package badgerqueue

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
)

const (
	// sweepMost and sweepLeast bound how often the sweep looks.
	sweepMost  = 10 * time.Second
	sweepLeast = 50 * time.Millisecond
	// sweepBatch bounds the events of one transaction, so that accepting waits
	// no longer for a sweep than for a busy batch.
	sweepBatch = 128
	// sweepScan bounds the events one step looks at.
	sweepScan  = 16384
	orphanKeys = 1024
	// evictTo is the share of max_disk that early eviction aims for.
	evictTo = 0.75
)

// sweep removes what retention and max_disk say, until the store stops.
//
// It walks the sequence with a cursor. An event is judged once its age exceeds
// the retention: one that ended long enough ago goes; one that ended later gets
// an X key, to be found when its time has come; one that still waits gets its X
// key from the settlement that ends it. So no event is looked at twice in vain,
// and a delivery that waits for a year costs nothing.
func (s *Store) sweep() {
	every := max(min(s.o.Retention/20, sweepMost), s.bounds.sweep)
	if s.o.MaxDisk > 0 {
		every = min(every, time.Second)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		<-s.stop
		cancel()
	}()
	tick := time.NewTicker(every)
	defer tick.Stop()
	space := reclaimer{s: s}
	s.orphans.Store(true)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.lookAtClock(ctx)
		s.disk.measure()
		space.watch()
		space.freeMemory()
		removed, err := s.sweepOnce(ctx)
		if err != nil && ctx.Err() == nil {
			s.log.Error("removing old events", "error", err)
		}
		if err := space.reclaim(ctx, removed); err != nil && ctx.Err() == nil {
			s.log.Warn("giving back space", "error", err)
		}
	}
}

// lookAtClock has the lanes look again where the machine slept through their
// timers, and keeps how far the time of day was set meanwhile.
func (s *Store) lookAtClock(ctx context.Context) {
	if s.clock.readSlept() > 0 {
		s.wakeLanes()
	}
	if !s.clock.movedFrom(s.shown.Load().shift) {
		return
	}
	err := s.commit(ctx, 2, 256, func(*batch) error { return nil }) // every batch keeps it
	if err != nil && ctx.Err() == nil {
		s.log.Warn("keeping the time", "error", err)
	}
}

// wakeLanes has every lane look at what is due.
func (s *Store) wakeLanes() {
	s.hooksMu.RLock()
	defer s.hooksMu.RUnlock()
	for _, h := range s.hooks {
		h.wake()
	}
}

// sweepOnce removes what may go now and returns about how many bytes that was.
func (s *Store) sweepOnce(ctx context.Context) (removed int64, err error) {
	excess := int64(0)
	if s.disk.near() {
		excess = s.disk.used() - int64(evictTo*float64(s.o.MaxDisk))
	}
	for _, next := range []func(context.Context, bool) (int64, bool, error){s.sweepEnded, s.sweepSequence} {
		for more := true; more; {
			var n int64
			n, more, err = next(ctx, removed < excess)
			removed += n
			if err != nil {
				return removed, err
			}
		}
	}
	if s.orphans.Swap(false) {
		if err := s.sweepOrphans(ctx); err != nil {
			s.orphans.Store(true)
			return removed, err
		}
	}
	return removed, nil
}

// finished is an event that may go, as the sweep saw it.
type finished struct {
	seq      uint64
	feedback queue.FeedbackID
	attempts [][]byte // keys
	size     int64
	ended    waiting // its X key, where due is not 0
}

// sweepSequence goes on from the sweep cursor. More tells that there may be more
// to do at once.
func (s *Store) sweepSequence(ctx context.Context, early bool) (removed int64, more bool, err error) {
	old := s.clock.now().Add(-s.o.Retention)
	from, err := s.announceSweep(ctx, old, early)
	if err != nil || from == 0 {
		return 0, false, err
	}
	defer s.sweeping.Store(0) // the cursor is where it may be by then
	var gone []finished
	var later []waiting
	swept := from
	err = s.view(ctx, func(txn *badger.Txn) error {
		return scan(txn, []byte{prefixEvent}, eventKey(from), func(key, rec []byte) (bool, error) {
			if len(gone)+len(later) >= sweepBatch || seqOf(key) >= from+sweepScan {
				more = true
				return false, nil
			}
			e, err := decodeEvent(key, rec, s.tags)
			if err != nil {
				_ = s.report("removing old events", err)
				swept = seqOf(key) + 1
				return true, nil
			}
			created, young := s.young(&e, old)
			if young && !early {
				return false, nil
			}
			ds, err := getDeliveries(txn, seqOf(key))
			if err != nil {
				_ = s.report("removing old events", err)
				swept = seqOf(key) + 1
				return true, nil
			}
			swept = seqOf(key) + 1
			switch ended := endedAt(created, ds); {
			case s.waits(ds, !created.After(old)): // its settlement will tell
			case early || !ended.After(old):
				gone = append(gone, s.finished(txn, &e, len(rec), waiting{}))
			default:
				later = append(later, waiting{due: ended.UnixNano(), seq: seqOf(key)})
			}
			return true, nil
		})
	})
	if err != nil || swept == from {
		return 0, false, err
	}
	return s.remove(ctx, gone, func(b *batch) error {
		for _, at := range later {
			if ds, err := b.deliveriesOf(at.seq); err != nil || s.waits(ds, true) {
				continue // requeued since: its settlement will tell
			}
			b.stateOf.ended = min(b.stateOf.ended, at.due)
			if err := b.set(endedKey(at), nil); err != nil {
				return err
			}
		}
		b.stateOf.swept = max(b.stateOf.swept, swept)
		return nil
	}, more, len(later))
}

// announceSweep finds where the sweep goes on, and has the committer know how far
// that may be; 0 is that nothing is old enough. What is still waiting when the
// sweep passes it leaves its X key when it is settled, and the settlement must know
// that it is to: also one that is committed after the sweep has looked and before
// the cursor has moved. So the end of the step is announced, and a commit later
// every settlement that did not know is visible to the sweep.
func (s *Store) announceSweep(ctx context.Context, old time.Time, early bool) (from uint64, err error) {
	err = s.view(ctx, func(txn *badger.Txn) error {
		return scan(txn, []byte{prefixEvent}, eventKey(s.shown.Load().swept), func(key, rec []byte) (bool, error) {
			e, err := decodeEvent(key, rec, s.tags)
			if err == nil && !early {
				if _, young := s.young(&e, old); young {
					return false, nil
				}
			}
			from = seqOf(key) // what cannot be read is the sweep's to report
			return false, nil
		})
	})
	if err != nil || from == 0 {
		return 0, err
	}
	s.sweeping.Store(from + sweepScan)
	return from, s.commit(ctx, 2, 256, func(*batch) error { return nil })
}

// young tells whether an event was accepted after old, and when that was by the
// store's clock. One from ahead of that clock is not: its date says nothing.
func (s *Store) young(e *queue.Event, old time.Time) (created time.Time, young bool) {
	created, ahead := s.clock.own(e.Created)
	return created, created.After(old) && !ahead
}

// sweepEnded removes events behind the cursor whose time has come.
func (s *Store) sweepEnded(ctx context.Context, early bool) (removed int64, more bool, err error) {
	old := s.clock.now().Add(-s.o.Retention).UnixNano()
	var gone []finished
	var stale [][]byte
	kept := false // a key that the cursor must not pass
	looked := 0
	low := s.shown.Load().ended
	err = s.view(ctx, func(txn *badger.Txn) error {
		scanKeys(txn, []byte{prefixEnded}, endedKey(waiting{due: low}), func(key []byte) bool {
			at := waiting{due: int64(binary.BigEndian.Uint64(key[1:])), seq: binary.BigEndian.Uint64(key[9:])}
			if at.due > old && !early {
				return false
			}
			if looked++; len(gone)+len(stale) >= sweepBatch || looked > sweepScan {
				more = len(gone)+len(stale) >= sweepBatch
				return false
			}
			if !kept {
				low = at.due
			}
			e, err := s.getEvent(txn, at.seq)
			if err != nil {
				stale = append(stale, endedKey(at))
				return true
			}
			ds, err := getDeliveries(txn, at.seq)
			switch {
			case err != nil || s.waits(ds, true):
				stale = append(stale, endedKey(at)) // requeued: it gets a new one
				return true
			case at.due > old && s.waits(ds, false):
				kept = true // parked, and not expired: it does not go early
				return true
			}
			gone = append(gone, s.finished(txn, &e, len(e.Body), at))
			return true
		})
		return nil
	})
	if err != nil || len(gone)+len(stale) == 0 {
		return 0, false, err
	}
	return s.remove(ctx, gone, func(b *batch) error {
		for _, key := range stale {
			if err := b.delete(key); err != nil {
				return err
			}
		}
		b.stateOf.ended = max(b.stateOf.ended, low)
		return nil
	}, more, len(stale))
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

func (s *Store) finished(txn *badger.Txn, e *queue.Event, size int, ended waiting) finished {
	f := finished{seq: e.ID.Seq(), feedback: e.Feedback, size: int64(size) + 64, ended: ended}
	scanKeys(txn, seqKey(prefixAttempt, f.seq), nil, func(key []byte) bool {
		f.attempts = append(f.attempts, append([]byte(nil), key...))
		f.size += 512
		return true
	})
	return f
}

// remove takes finished events out, each checked again by the committer, and
// then does what else belongs to the step.
func (s *Store) remove(ctx context.Context, gone []finished, then func(b *batch) error, more bool, others int) (int64, bool, error) {
	entries, bytes := 8+2*others, 1024+64*others
	for _, f := range gone {
		entries += 6 + len(f.attempts)
		bytes += 256 + 40*len(f.attempts) + len(f.feedback.ID) + len(f.feedback.Project)
	}
	if len(gone) > 1 && (entries > s.committer.maxEntries/2 || bytes > s.committer.maxBytes/2) {
		// Events with many attempts: take them in smaller steps.
		half := len(gone) / 2
		n, _, err := s.remove(ctx, gone[:half], func(*batch) error { return nil }, false, 0)
		if err != nil {
			return n, false, err
		}
		m, more, err := s.remove(ctx, gone[half:], then, more, others)
		return n + m, more, err
	}
	var removed int64 // the committer's, until commit has returned without an error
	err := s.commit(ctx, entries, bytes, func(b *batch) error {
		for _, f := range gone {
			ok, err := b.remove(f)
			if err != nil {
				return err
			}
			if ok {
				removed += f.size
			}
		}
		return then(b)
	})
	if err != nil {
		return 0, false, err
	}
	return removed, more, nil
}

// remove takes one event out, unless it waits again.
func (b *batch) remove(f finished) (bool, error) {
	ds, err := b.deliveriesOf(f.seq)
	if err != nil || b.s.waits(ds, true) {
		return false, err
	}
	if f.ended.due != 0 {
		if err := b.delete(endedKey(f.ended)); err != nil {
			return false, err
		}
	}
	for _, d := range ds {
		h := b.hook(d.webhook)
		if h == nil {
			continue
		}
		if at, ok := d.waitsAt(f.seq); ok { // parked
			if err := b.delete(waitingKey(d.webhook, d.rung, at)); err != nil {
				return false, err
			}
		}
		h.count(d.state, -1)
		b.moved(h)
	}
	keys := append([][]byte{eventKey(f.seq)}, f.attempts...)
	if len(ds) > 0 {
		keys = append(keys, deliveriesKey(f.seq))
	}
	if !f.feedback.IsZero() {
		held, err := b.s.lookUp(b.txn, f.feedback)
		switch {
		case err != nil:
			return false, err
		case held.seq != f.seq: // it has a newer event
		case held.former:
			keys = append(keys, formerKey(f.feedback.ID))
		default:
			keys = append(keys, feedbackKey(f.feedback))
		}
	}
	for _, key := range keys {
		if err := b.delete(key); err != nil {
			return false, err
		}
	}
	b.retire(f.seq)
	b.stateOf.events--
	return true, nil
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
				if s.hook(id) != nil {
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
		err = s.commit(ctx, len(keys), 64*len(keys), func(b *batch) error {
			for _, key := range keys {
				if err := b.delete(key); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
}
