package badgerqueue

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/layout"
)

const (
	// eraseEntries and eraseBytes limit what one transaction of an erasure writes.
	eraseEntries = 2048
	eraseBytes   = 256 << 10
	// erasePoll is how often an erasure checks whether attempts in flight have ended.
	erasePoll = 10 * time.Millisecond
)

// erasedSeq is the event number in an idempotency key whose event was erased.
const erasedSeq = 1<<64 - 1

// erasedKey is the key of the marker that a feedback was erased. It holds only a hash of
// the feedback's project and id.
func erasedKey(id queue.FeedbackID) []byte {
	hash := id.Hash()
	return append([]byte{layout.PrefixErased}, hash[:]...)
}

// isErased reports whether a feedback was erased.
func (s *Store) isErased(txn *badger.Txn, id queue.FeedbackID) (bool, error) {
	if !s.erases.Load() || id.IsZero() {
		return false, nil
	}
	_, err := txn.Get(erasedKey(id))
	if errors.Is(err, badger.ErrKeyNotFound) {
		return false, nil
	}
	return err == nil, err
}

// errErased wraps queue.ErrErased with the feedback.
func errErased(id queue.FeedbackID) error { return fmt.Errorf("%s: %w", id, queue.ErrErased) }

// erasure is one call of Erase under way.
type erasure struct {
	s      *Store
	ids    map[queue.FeedbackID]bool
	seqs   map[uint64]bool
	left   []erasedEvent // events still to remove
	flight []inLane      // deliveries that were leased when they were removed
	sum    queue.Erased
}

// erasedEvent is an event that an erasure removes.
type erasedEvent struct {
	seq      uint64
	feedback queue.FeedbackID
	size     int // what storedEvent.size returns for it
}

// Erase implements queue.Eraser. First it marks the feedbacks as erased, so that the store
// accepts no more events of them. It removes the events only after their idempotency keys:
// if a call ends early, the next call finds the events and finishes the work.
func (s *Store) Erase(ctx context.Context, ids []queue.FeedbackID) (queue.Erased, error) {
	e := erasure{s: s, ids: make(map[queue.FeedbackID]bool, len(ids)), seqs: make(map[uint64]bool)}
	for _, id := range ids {
		e.ids[id] = true
	}
	for _, step := range []func(context.Context) error{e.mark, e.find, e.forgetKeys, e.remove, e.forgetFeedbacks, e.await} {
		if err := step(ctx); err != nil {
			return e.sum, fmt.Errorf("erasing feedback: %w", err)
		}
	}
	return e.sum, nil
}

// mark marks those feedbacks as erased that the store holds.
func (e *erasure) mark(ctx context.Context) error {
	ids := make([]queue.FeedbackID, 0, len(e.ids))
	for id := range e.ids {
		ids = append(ids, id)
	}
	for some := range slices.Chunk(ids, eraseEntries/2) {
		err := e.s.commit(ctx, len(some), 128*len(some), func(b *batch) error {
			for _, id := range some {
				held, err := b.s.lookUp(b.txn, id)
				if err == nil && held.is {
					err = b.markErased(id)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// markErased writes the marker that a feedback was erased.
func (b *batch) markErased(id queue.FeedbackID) error {
	b.s.erases.Store(true) // set before readers can see the marker
	key := erasedKey(id)
	at := binary.BigEndian.AppendUint64(layout.Record(8), uint64(b.now.UnixNano()))
	return b.set(key, layout.Seal(key, at))
}

// find collects the events of the feedbacks. It reads all events, because the record of a
// feedback names only its latest event.
func (e *erasure) find(ctx context.Context) error {
	found := make(map[queue.FeedbackID]bool)
	err := e.s.each(ctx, []byte{layout.PrefixEvent}, func(key, rec []byte) error {
		event, err := decodeEvent(key, rec, e.s.tags)
		if err != nil {
			return e.s.report("looking for feedback to erase", err)
		}
		if e.ids[event.Feedback] {
			seq := layout.SeqOf(key)
			e.seqs[seq] = true
			e.left = append(e.left, erasedEvent{seq: seq, feedback: event.Feedback, size: event.size()})
			found[event.Feedback] = true
		}
		return nil
	})
	e.sum.Feedbacks = int64(len(found))
	return err
}

// each visits every record of a prefix in one snapshot. It returns an error if the store
// closes.
func (s *Store) each(ctx context.Context, prefix []byte, visit func(key, rec []byte) error) error {
	seen := 0
	return s.view(ctx, func(txn *badger.Txn) error {
		return scan(txn, prefix, nil, func(key, rec []byte) (bool, error) {
			if seen++; seen%1024 == 0 {
				if err := s.going(ctx); err != nil {
					return false, err
				}
			}
			return true, visit(key, rec)
		})
	})
}

// forgetKeys replaces the events' idempotency keys by records that hold only the
// submission's hash. They expire when the keys would have expired.
func (e *erasure) forgetKeys(ctx context.Context) error {
	type bound struct {
		key     []byte
		hash    [32]byte
		expires uint64
	}
	var keys []bound
	seen := 0
	err := e.s.view(ctx, func(txn *badger.Txn) error {
		return scanItems(txn, []byte{layout.PrefixIdempotency}, nil, func(item *badger.Item) (bool, error) {
			if seen++; seen%1024 == 0 {
				if err := e.s.going(ctx); err != nil {
					return false, err
				}
			}
			return visitItem(item, func(key, rec []byte) (bool, error) {
				k, err := layout.DecodeIdempotency(key, rec)
				if err != nil {
					return true, e.s.report("looking for idempotency keys to erase", err)
				}
				if e.seqs[k.About()] {
					keys = append(keys, bound{key: bytes.Clone(key), hash: k.Hash, expires: item.ExpiresAt()})
				}
				return true, nil
			})
		})
	})
	if err != nil {
		return err
	}
	for some := range slices.Chunk(keys, eraseEntries/2) {
		err := e.s.commit(ctx, len(some), 256*len(some), func(b *batch) error {
			for _, k := range some {
				if err := b.setUntil(k.expires, k.key, layout.Idempotency{Seq: erasedSeq, Hash: k.hash}.Encode(k.key)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	e.sum.Keys = int64(len(keys))
	return nil
}

// remove removes the events with their deliveries and attempts.
func (e *erasure) remove(ctx context.Context) error {
	for len(e.left) > 0 {
		var done int
		var sum queue.Erased
		var flight []inLane // owned by the committer until commit returns without an error
		err := e.s.commit(ctx, eraseEntries, eraseBytes, func(b *batch) error {
			done, sum, flight = 0, queue.Erased{}, nil
			from := b.entries
			for _, event := range e.left {
				room := eraseEntries - (b.entries - from)
				if room <= eraseEntries/4 {
					return nil
				}
				whole, err := b.erase(event, room/2, &sum, &flight)
				if err != nil || !whole {
					return err
				}
				done++
			}
			return nil
		})
		if err != nil {
			return err
		}
		e.sum = e.sum.Add(sum)
		e.flight = append(e.flight, flight...)
		e.left = e.left[done:]
	}
	return nil
}

// erase removes one event. If the batch has no room for all of its attempts, erase removes
// only some attempts. It reports whether the event is removed.
func (b *batch) erase(e erasedEvent, room int, sum *queue.Erased, flight *[]inLane) (whole bool, err error) {
	if !b.has(layout.EventKey(e.seq)) {
		return true, nil
	}
	var attempts []storedAttempt
	err = scanItems(b.txn, layout.SeqKey(layout.PrefixAttempt, e.seq), nil, func(item *badger.Item) (bool, error) {
		attempts = append(attempts, storedAttempt{key: item.KeyCopy(nil), size: int(item.KeySize()+item.ValueSize()) + entryOverhead})
		return len(attempts) < room, nil
	})
	if err != nil {
		return false, err
	}
	size := e.size
	for _, a := range attempts {
		if err := b.delete(a.key); err != nil {
			return false, err
		}
		size += a.size
	}
	sum.Attempts += int64(len(attempts))
	if len(attempts) == room {
		b.grow(-(size - e.size))
		return false, nil
	}
	ds, err := b.deliveriesOf(e.seq)
	if err != nil {
		return false, err
	}
	for _, d := range ds {
		sum.Deliveries++
		if d.log != nil {
			sum.Attempts++
		}
		h := b.webhook(d.webhook)
		if h == nil || !d.state.Waiting() {
			continue
		}
		sum.Waiting++
		if h.move(e.seq) {
			b.moving = append(b.moving, inLane{h, e.seq})
		} else {
			*flight = append(*flight, inLane{h, e.seq})
		}
	}
	sum.Events++
	return true, b.removeEvent(e.seq, e.feedback, size, ds)
}

// has reports whether the store has a record with this key.
func (b *batch) has(key []byte) bool {
	_, err := b.txn.Get(key)
	return err == nil
}

// forgetFeedbacks deletes the records of the feedbacks after their events. It also marks
// the feedbacks of which the store held events but no record.
func (e *erasure) forgetFeedbacks(ctx context.Context) error {
	if e.sum.Events == 0 {
		return nil
	}
	ids := make([]queue.FeedbackID, 0, len(e.ids))
	for id := range e.ids {
		ids = append(ids, id)
	}
	for some := range slices.Chunk(ids, eraseEntries/4) {
		err := e.s.commit(ctx, 2*len(some), 1024*len(some), func(b *batch) error {
			for _, id := range some {
				erased, err := b.s.isErased(b.txn, id)
				if err != nil {
					return err
				}
				held, err := b.s.lookUp(b.txn, id)
				if err != nil {
					return err
				}
				switch {
				case erased && held.is:
					err = b.delete(held.key(id))
				case !erased && !held.is:
					err = b.markErased(id)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// await waits for the end of the attempts that were in flight when their deliveries were
// removed.
func (e *erasure) await(ctx context.Context) error {
	tick := time.NewTicker(erasePoll)
	defer tick.Stop()
	for _, out := range e.flight {
		for out.webhook.isLeased(out.seq) {
			select {
			case <-tick.C:
			case <-e.s.ending:
				return queue.ErrClosed
			case <-ctx.Done():
				return fmt.Errorf("all of it is removed, and an attempt is still in flight: %w", context.Cause(ctx))
			}
		}
	}
	return nil
}
