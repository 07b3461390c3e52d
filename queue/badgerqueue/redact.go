package badgerqueue

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
)

// redaction is what SetLimits asks for.
type redaction struct {
	after    time.Duration
	document func([]byte) []byte
}

// redactBatch bounds the events of one transaction.
const redactBatch = 32

// sweepRedacted redacts the events that ended before a time. Each has an X key with its
// end: the sweep writes those of events that it passes, and settlements write them behind
// the sweep. So it goes on where it ended. It returns about how many bytes went.
func (s *Store) sweepRedacted(ctx context.Context, r *redaction, old time.Time) (removed int64, err error) {
	began := s.shown.Load().redacted
	from := waiting{due: max(began-int64(createdSlack), 0)}
	for {
		var due []waiting
		looked, more := 0, false
		err := s.view(ctx, func(txn *badger.Txn) error {
			scanKeys(txn, []byte{prefixEnded}, endedKey(from), func(key []byte) bool {
				at := waiting{due: int64(binary.BigEndian.Uint64(key[1:])), seq: binary.BigEndian.Uint64(key[9:])}
				if at.due > old.UnixNano() {
					return false
				}
				if looked++; looked > sweepScan || len(due) >= redactBatch {
					more = true
					return false
				}
				from = next(at)
				if s.mayRedact(txn, at) {
					due = append(due, at)
				}
				return true
			})
			return nil
		})
		if err != nil {
			return removed, err
		}
		if len(due) > 0 || !more && from.due > began {
			n, err := s.redact(ctx, r, due, from.due)
			if removed += n; err != nil {
				return removed, err
			}
		}
		if !more {
			return removed, nil
		}
	}
}

// mayRedact reports whether the event of an X key is to be redacted: it has ended then,
// and was not delivered again.
func (s *Store) mayRedact(txn *badger.Txn, at waiting) bool {
	e, err := s.getEvent(txn, at.seq)
	if err != nil || e.Redacted || e.Feedback.IsZero() {
		return false
	}
	ds, err := getDeliveries(txn, at.seq)
	created, ahead := s.clock.Own(e.Created)
	return err == nil && !s.waits(ds, true) && (ahead || endedAt(created, ds).UnixNano() <= at.due)
}

// redact redacts events in one transaction, and keeps up to where that has come.
func (s *Store) redact(ctx context.Context, r *redaction, due []waiting, to int64) (removed int64, err error) {
	if len(due) > 0 {
		s.redacted.Store(true) // before any is
	}
	n := len(due)
	err = s.commit(ctx, 8+64*n, 1<<10+n<<17, func(b *batch) error {
		removed = 0
		for _, at := range due {
			size, err := b.redact(r, at)
			if removed += size; err != nil {
				return err
			}
		}
		b.stateOf.redacted = max(b.stateOf.redacted, to)
		return nil
	})
	if errors.Is(err, queue.ErrTooLarge) && n > 1 { // they have many attempts
		a, err := s.redact(ctx, r, due[:n/2], 0)
		if err != nil {
			return a, err
		}
		b, err := s.redact(ctx, r, due[n/2:], to)
		return a + b, err
	}
	if err != nil {
		return 0, fmt.Errorf("redacting events: %w", err)
	}
	return removed, nil
}

// redact redacts one event, if it may be: it is looked at again. It returns about how
// many bytes went.
func (b *batch) redact(r *redaction, at waiting) (removed int64, err error) {
	e, err := b.s.getEvent(b.txn, at.seq)
	if err != nil || e.Redacted {
		return 0, nil //nolint:nilerr // it is gone, or its damage is reported elsewhere
	}
	ds, err := b.deliveriesOf(at.seq)
	if err != nil || b.s.waits(ds, true) {
		return 0, err
	}
	before := eventSize(&e)
	e.Redacted, e.Body = true, r.document(e.Body)
	key := eventKey(at.seq)
	if err := b.set(key, seal(key, appendEvent(record(128+len(e.Body)), &e))); err != nil {
		return 0, err
	}
	b.grow(eventSize(&e) - before)
	removed = int64(before - eventSize(&e))
	n, err := b.redactAttempts(at.seq)
	if removed += n; err != nil || len(ds) == 0 {
		return removed, err
	}
	parked := false
	for i := range ds {
		d := &ds[i]
		if d.log, err = redactedAttempt(deliveriesKey(at.seq), d.log, 1); err != nil {
			return removed, err
		}
		h := b.webhook(d.webhook)
		if h == nil || !d.state.Waiting() {
			continue
		}
		parked = true // what waits for it would send nothing but the rest
		if h.move(at.seq) {
			b.moving = append(b.moving, inLane{h, at.seq})
		}
		to := *d
		to.state, to.at = queue.Failed, b.now.UnixNano()
		if err := b.move(h, at.seq, d, to); err != nil {
			return removed, err
		}
	}
	b.touch(at.seq, ds)
	if parked {
		return removed, b.ended(at.seq, ds)
	}
	return removed, nil
}

// redactAttempts redacts the attempts of an event that have records of their own.
func (b *batch) redactAttempts(seq uint64) (removed int64, err error) {
	err = scanItems(b.txn, seqKey(prefixAttempt, seq), nil, func(item *badger.Item) (bool, error) {
		key := item.KeyCopy(nil)
		return visitItem(item, func(_, rec []byte) (bool, error) {
			p, err := unseal(key, rec)
			if err != nil {
				return true, nil //nolint:nilerr // check reports it
			}
			log, err := redactedAttempt(key, bytes.Clone(p), 1)
			if err != nil || len(log) == len(p) {
				return true, nil //nolint:nilerr // as above
			}
			redacted := seal(key, append(record(len(log)), log...))
			removed += int64(len(rec) - len(redacted))
			b.grow(len(redacted) - len(rec))
			return true, b.set(key, redacted)
		})
	})
	return removed, err
}

// redactedAttempt returns an attempt without what may echo a document.
func redactedAttempt(key, log []byte, number int) ([]byte, error) {
	if log == nil {
		return nil, nil
	}
	a, err := parseAttempt(key, log, number)
	if err != nil {
		return nil, err
	}
	a.RequestBody, a.ResponseHeaders, a.ResponseBody = nil, nil, nil
	return appendAttempt(nil, &a), nil
}
