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
	"github.com/userhero/relay/queue/badgerqueue/layout"
)

// redaction is the redaction that SetLimits sets.
type redaction struct {
	after    time.Duration
	document func([]byte) []byte
}

// redactBatch is the most events that one transaction redacts.
const redactBatch = 32

// sweepRedacted redacts the events that ended before a time. Each of them has an X key
// with the time of its end: the sweep writes the key when it passes the event, and behind
// the sweep a settlement writes it. So each call continues where the last one ended. It
// returns about how many bytes it removed.
func (s *Store) sweepRedacted(ctx context.Context, r *redaction, old time.Time) (removed int64, err error) {
	began := s.shown.Load().Redacted
	from := layout.Waiting{Due: max(began-int64(createdSlack), 0)}
	for {
		var due []layout.Waiting
		looked, more := 0, false
		err := s.view(ctx, func(txn *badger.Txn) error {
			scanKeys(txn, []byte{layout.PrefixEnded}, layout.EndedKey(from), func(key []byte) bool {
				at := layout.Waiting{Due: int64(binary.BigEndian.Uint64(key[1:])), Seq: binary.BigEndian.Uint64(key[9:])}
				if at.Due > old.UnixNano() {
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
		if len(due) > 0 || !more && from.Due > began {
			n, err := s.redact(ctx, r, due, from.Due)
			if removed += n; err != nil {
				return removed, err
			}
		}
		if !more {
			return removed, nil
		}
	}
}

// mayRedact reports whether the event of an X key should be redacted: its last delivery
// ended at the time in the key, and it was not delivered again.
func (s *Store) mayRedact(txn *badger.Txn, at layout.Waiting) bool {
	e, err := s.getHeader(txn, at.Seq)
	if err != nil || e.Redacted || e.Feedback.IsZero() {
		return false
	}
	ds, err := getDeliveries(txn, at.Seq)
	created, ahead := s.clock.Own(e.Created)
	return err == nil && !s.waits(ds, true) && (ahead || endedAt(created, ds).UnixNano() <= at.Due)
}

// redact redacts events in one transaction, and stores in it how far redaction has come.
func (s *Store) redact(ctx context.Context, r *redaction, due []layout.Waiting, to int64) (removed int64, err error) {
	if len(due) > 0 {
		s.redacted.Store(true) // set before the first event is redacted
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
		b.stateOf.Redacted = max(b.stateOf.Redacted, to)
		return nil
	})
	if errors.Is(err, queue.ErrTooLarge) && n > 1 { // the events have too many attempts for one transaction
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

// redact redacts one event after it has checked again that no delivery waits. It returns
// about how many bytes it removed.
func (b *batch) redact(r *redaction, at layout.Waiting) (removed int64, err error) {
	e, before, err := b.s.readEvent(b.txn, at.Seq, decodeWhole)
	if err != nil || e.Redacted {
		return 0, nil //nolint:nilerr // the event is gone, or its damage is reported elsewhere
	}
	ds, err := b.deliveriesOf(at.Seq)
	if err != nil || b.s.waits(ds, true) {
		return 0, err
	}
	e.Redacted, e.Body = true, r.document(e.Body)
	size, err := b.setEvent(&e)
	if err != nil {
		return 0, err
	}
	b.grow(size - before)
	removed = int64(before - size)
	n, err := b.redactAttempts(e.ID)
	if removed += n; err != nil || len(ds) == 0 {
		return removed, err
	}
	parked := false
	for i := range ds {
		d := &ds[i]
		if d.log, err = redactedAttempt(layout.DeliveriesKey(at.Seq), d.log, queue.DeliveryID{Event: e.ID, Webhook: d.webhook}); err != nil {
			return removed, err
		}
		h := b.webhook(d.webhook)
		if h == nil || !d.state.Waiting() {
			continue
		}
		parked = true // the delivery ends: it could only send the redacted document
		if h.move(at.Seq) {
			b.moving = append(b.moving, inLane{h, at.Seq})
		}
		to := *d
		to.state, to.at = queue.Failed, b.now.UnixNano()
		if err := b.move(h, at.Seq, d, to); err != nil {
			return removed, err
		}
	}
	b.touch(at.Seq, ds)
	if parked {
		return removed, b.ended(at.Seq, ds)
	}
	return removed, nil
}

// redactAttempts redacts those attempts of an event that have their own records.
func (b *batch) redactAttempts(id queue.EventID) (removed int64, err error) {
	err = scanItems(b.txn, layout.SeqKey(layout.PrefixAttempt, id.Seq()), nil, func(item *badger.Item) (bool, error) {
		key := item.KeyCopy(nil)
		return visitItem(item, func(_, rec []byte) (bool, error) {
			p, err := layout.Unseal(key, rec)
			if err != nil {
				return true, nil //nolint:nilerr // check reports it
			}
			webhook := queue.WebhookID(binary.BigEndian.Uint32(key[9:]))
			log, err := redactedAttempt(key, bytes.Clone(p), queue.DeliveryID{Event: id, Webhook: webhook})
			if err != nil || len(log) == len(p) {
				return true, nil //nolint:nilerr // check reports it
			}
			redacted := layout.Seal(key, append(layout.Record(len(log)), log...))
			removed += int64(len(rec) - len(redacted))
			b.grow(len(redacted) - len(rec))
			return true, b.set(key, redacted)
		})
	})
	return removed, err
}

// redactedAttempt returns an attempt without the parts that may repeat a document: the
// request body, the response headers and the response body.
func redactedAttempt(key, log []byte, id queue.DeliveryID) ([]byte, error) {
	if log == nil {
		return nil, nil
	}
	name := id.String()
	a, err := parseAttempt(key, log, 1, name)
	if err != nil {
		return nil, err
	}
	a.RequestBody, a.ResponseHeaders, a.ResponseBody = nil, nil, nil
	return appendAttempt(nil, &a, name), nil
}
