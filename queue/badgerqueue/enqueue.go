package badgerqueue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
)

// enqueueOp stores one event with its deliveries.
type enqueueOp struct {
	entry   queue.Entry
	receipt queue.Receipt
	result  chan error // of capacity 1
}

// Enqueue implements queue.Queue.
func (s *Store) Enqueue(ctx context.Context, e queue.Entry) (queue.Receipt, error) {
	if err := s.begin(); err != nil {
		return queue.Receipt{}, err
	}
	defer s.end()
	if err := s.failure(); err != nil {
		return queue.Receipt{}, err
	}
	if err := s.disk.roomToAccept(); err != nil { // Promise 1: no new event is taken when the disk is nearly full; what waits goes on.
		return queue.Receipt{}, err
	}
	for _, k := range e.Keys {
		if k.Name == "" || len(k.Name) > maxKeyName {
			return queue.Receipt{}, fmt.Errorf("an idempotency key has 1 to %d bytes, not %d", maxKeyName, len(k.Name))
		}
	}
	size := int64(len(e.Body))
	if s.pending.Add(size) > maxPending {
		s.pending.Add(-size)
		return queue.Receipt{}, fmt.Errorf("%w: %d MiB of events wait for the disk", queue.ErrFull, maxPending>>20)
	}
	op, ok := s.enqueueOps.Get().(*enqueueOp)
	if !ok {
		op = &enqueueOp{result: make(chan error, 1)}
	}
	op.entry = e
	select {
	case s.ops <- op:
	default:
		s.pending.Add(-size)
		return queue.Receipt{}, fmt.Errorf("%w: %d operations wait for the disk", queue.ErrFull, maxQueued)
	}
	// The body counts as pending until the commit, even where nobody waits.
	select {
	case err := <-op.result:
		s.pending.Add(-size)
		receipt := op.receipt
		op.entry, op.receipt = queue.Entry{}, queue.Receipt{}
		s.enqueueOps.Put(op)
		return receipt, err
	case <-ctx.Done():
		go func() {
			_ = <-op.result // nobody is left to tell
			s.pending.Add(-size)
		}()
		return queue.Receipt{}, context.Cause(ctx)
	}
}

func (o *enqueueOp) cost() (entries, bytes int) {
	n := len(o.entry.Webhooks)
	entries = 4 + len(o.entry.Keys) + n
	bytes = len(o.entry.Body) + len(o.entry.Trace.State) + 512 + n*(deliverySize+128)
	for _, k := range o.entry.Keys {
		bytes += len(k.Name) + 128
	}
	return entries, bytes
}

func (o *enqueueOp) lazy() bool     { return false }
func (o *enqueueOp) done(err error) { o.result <- err }

func (o *enqueueOp) apply(b *batch) error {
	e := &o.entry
	if first, err := b.held(e.Keys); err != nil || first != nil { // Promise 1: a repeat of a submission makes no second event.
		if first != nil {
			o.receipt = queue.Receipt{Event: *first, Replayed: true}
		}
		return err
	}
	if !e.Replaces.IsZero() {
		if err := b.isLatest(e.FeedbackID, e.Replaces); err != nil {
			return err
		}
	}
	seq := b.stateOf.seq + 1
	event := &queue.Event{
		Type: e.Type, FeedbackID: e.FeedbackID,
		Created: e.Created.UTC().Truncate(time.Millisecond),
		Trace:   e.Trace, Replaces: e.Replaces, Body: e.Body,
	}
	event.ID = queue.NewEventID(event.Created, b.s.tags.of(seq), seq)
	key := b.key(prefixEvent, seq)
	rec := b.record(128 + len(e.FeedbackID) + len(e.Trace.State) + len(e.Body))
	if err := b.set(key, seal(key, appendEvent(rec, event))); err != nil {
		return err
	}
	if ds := b.address(event, e.Webhooks); len(ds) > 0 {
		b.touch(seq, ds) // Promise 1: an event comes with its deliveries, in one commit.
	}
	if e.FeedbackID != "" {
		key := append(append(b.take(1+len(e.FeedbackID)), prefixFeedback), e.FeedbackID...)
		if err := b.set(key, sealSeq(key, b.record(8), seq)); err != nil {
			return err
		}
	}
	for _, k := range e.Keys {
		key := idempotencyKey(k.Name)
		if err := b.setFor(keyWindow, key, idempotency{seq: seq, hash: k.Hash}.encode(key)); err != nil {
			return err
		}
	}
	b.stateOf.seq = seq
	b.stateOf.events++
	o.receipt = queue.Receipt{Event: *event}
	return nil
}

// address makes the deliveries of a new event. Webhooks that were deleted
// meanwhile get none.
func (b *batch) address(e *queue.Event, webhooks []queue.WebhookID) deliveries {
	ds := make(deliveries, 0, len(webhooks))
	for _, w := range webhooks {
		h := b.hook(w)
		if h == nil || ds.find(w) != nil {
			continue
		}
		ds = append(ds, delivery{webhook: w, state: queue.Pending})
		h.counts.Pending++
		b.moved(h)
		b.fresh = append(b.fresh, freshEvent{event: e, hook: h})
	}
	ds.sort()
	return ds
}

// held looks the keys up: the event that holds one of them, or
// queue.ErrMismatch. Keys of events that are gone count as free.
func (b *batch) held(keys []queue.Key) (*queue.Event, error) {
	for _, k := range keys {
		rec, err := getRecord(b.txn, idempotencyKey(k.Name), decodeIdempotency)
		if errors.Is(err, badger.ErrKeyNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		first, err := b.s.getEvent(b.txn, rec.seq)
		if errors.Is(err, queue.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if rec.hash != k.Hash {
			return nil, queue.ErrMismatch
		}
		return &first, nil
	}
	return nil, nil
}

// isLatest checks that id is the newest event of a feedback.
func (b *batch) isLatest(feedbackID string, id queue.EventID) error {
	seq, err := getRecord(b.txn, feedbackKey(feedbackID), decodeSeq)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return fmt.Errorf("feedback %q: %w", feedbackID, queue.ErrConflict)
	}
	if err != nil {
		return err
	}
	if seq != id.Seq() || id.Tag() != b.s.tags.of(seq) {
		return fmt.Errorf("feedback %q has a newer event: %w", feedbackID, queue.ErrConflict)
	}
	return nil
}
