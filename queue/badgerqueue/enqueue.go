package badgerqueue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/badgercompat"
	"github.com/userhero/relay/queue/badgerqueue/layout"
)

// keyWindow is how long an idempotency key is kept.
const keyWindow = 24 * time.Hour

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
	if err := s.accepts(); err != nil {
		return queue.Receipt{}, err
	}
	if most := s.bounds.deliveries(); len(e.Webhooks) > most {
		return queue.Receipt{}, fmt.Errorf("%w: %d webhooks take this event, and the store delivers one to %d at most", queue.ErrTooLarge, len(e.Webhooks), most)
	}
	if err := e.Check(); err != nil {
		return queue.Receipt{}, err
	}
	size := int64(len(e.Body))
	if s.pending.Add(size) > s.bounds.pending {
		s.pending.Add(-size)
		return queue.Receipt{}, fmt.Errorf("%w: %s of events wait for the disk", queue.ErrFull, badgercompat.MiB(s.bounds.pending))
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
	// The body counts as pending until the commit, even if the caller gave up.
	select {
	case err := <-op.result:
		s.pending.Add(-size)
		receipt := op.receipt
		op.entry, op.receipt = queue.Entry{}, queue.Receipt{}
		s.enqueueOps.Put(op)
		return receipt, err
	case <-ctx.Done():
		go func() {
			_ = <-op.result // the caller has gone
			s.pending.Add(-size)
		}()
		return queue.Receipt{}, context.Cause(ctx)
	}
}

func (o *enqueueOp) cost() (entries, bytes int) {
	e := &o.entry
	n := len(e.Webhooks)
	entries = 6 + n
	bytes = len(e.Body) + len(e.Trace.State) + 2*(len(e.Feedback.ID)+len(e.Feedback.Project)) +
		len(e.Key.Name) + 2*len(e.Answer) + 768 + n*(deliverySize+128)
	return entries, bytes
}

func (o *enqueueOp) lazy() bool     { return false }
func (o *enqueueOp) done(err error) { o.result <- err }

func (o *enqueueOp) apply(b *batch) error {
	e := &o.entry
	switch receipt, err := b.s.repeat(b.txn, e.Key); { // Promise 1: a repeat of a submission makes no second event.
	case err == nil:
		o.receipt = receipt
		return nil
	case !errors.Is(err, queue.ErrNotFound):
		return err
	}
	held, err := b.held(e)
	if err != nil {
		return err
	}
	if held.is && e.Replaces.IsZero() { // the same submission created it before
		first, err := b.s.getEvent(b.txn, held.Seq)
		if err != nil {
			return err
		}
		o.receipt = queue.Receipt{Event: first, Replayed: true, Answer: held.Answer}
		return b.bind(e.Key, held.Seq, held.Answer)
	}
	if e.Body == nil {
		o.receipt = queue.Receipt{Answer: e.Answer}
		return b.bind(e.Key, e.Replaces.Seq()|layout.WithoutEvent, e.Answer)
	}
	seq := b.stateOf.Seq + 1
	event := &queue.Event{
		Type: e.Type, Feedback: e.Feedback,
		Created: e.Created.UTC().Truncate(time.Millisecond),
		Trace:   e.Trace, Replaces: e.Replaces, Body: e.Body,
	}
	event.ID = queue.NewEventID(event.Created, b.s.tags.Of(seq), seq)
	size, err := b.setEvent(event)
	if err != nil {
		return err
	}
	if ds := b.address(event, e.Webhooks); len(ds) > 0 {
		b.touch(seq, ds) // Promise 1: one commit stores an event with its deliveries.
	}
	if !e.Feedback.IsZero() {
		if !held.is {
			held.Feedback = layout.Feedback{Origin: e.Origin, Answer: e.Answer}
		}
		held.Seq = seq
		if err := b.setLatest(e.Feedback, held); err != nil {
			return err
		}
	}
	if err := b.bind(e.Key, seq, e.Answer); err != nil {
		return err
	}
	b.stateOf.Seq = seq
	b.stateOf.Events++
	b.grow(size)
	o.receipt = queue.Receipt{Event: *event, Answer: e.Answer}
	return nil
}

// setEvent writes the record of an event and returns its size.
func (b *batch) setEvent(e *queue.Event) (size int, err error) {
	packed := b.packer.Pack(e.Body)
	key := b.key(layout.PrefixEvent, e.ID.Seq())
	rec := b.record(128 + len(e.Feedback.ID) + len(e.Feedback.Project) + len(e.Trace.State) + len(packed))
	return eventSize(e, len(packed)), b.set(key, layout.Seal(key, appendEvent(rec, e, packed)))
}

// setLatest writes the record of a feedback and deletes its record of format 2, if it
// has one.
func (b *batch) setLatest(id queue.FeedbackID, f heldFeedback) error {
	if f.former {
		if err := b.delete(layout.FormerKey(id.ID)); err != nil {
			return err
		}
	}
	key := layout.FeedbackKey(id)
	return b.set(key, layout.Seal(key, f.AppendTo(b.record(8+len(f.Origin)+len(f.Answer)))))
}

// bind stores an idempotency key, so that repeats get the same answer. It does nothing
// if the key has no name.
func (b *batch) bind(k queue.Key, seq uint64, answer []byte) error {
	if k.Name == "" {
		return nil
	}
	key := layout.IdempotencyKey(k.Name)
	return b.setFor(keyWindow, key, layout.Idempotency{Seq: seq, Hash: k.Hash, Answer: answer}.Encode(key))
}

// address makes the deliveries of a new event. It makes none for a webhook that was
// deleted in the meantime.
func (b *batch) address(e *queue.Event, webhooks []queue.WebhookID) deliveries {
	ds := make(deliveries, 0, len(webhooks))
	for _, w := range webhooks {
		h := b.webhook(w)
		if h == nil || ds.find(w) != nil {
			continue
		}
		ds = append(ds, delivery{webhook: w, state: queue.Pending})
		b.count(h, queue.Pending, 1)
		b.fresh = append(b.fresh, freshEvent{event: e, webhook: h})
	}
	ds.sort()
	return ds
}

// Repeat implements queue.Queue.
func (s *Store) Repeat(ctx context.Context, k queue.Key) (r queue.Receipt, err error) {
	err = s.view(ctx, func(txn *badger.Txn) error {
		r, err = s.repeat(txn, k)
		return err
	})
	return r, err
}

// repeat returns the receipt of the submission that bound a key. The store keeps the
// receipt for keyWindow, even if the event is removed earlier.
func (s *Store) repeat(txn *badger.Txn, k queue.Key) (queue.Receipt, error) {
	if k.Name == "" {
		return queue.Receipt{}, queue.ErrNotFound
	}
	rec, err := getRecord(txn, layout.IdempotencyKey(k.Name), layout.DecodeIdempotency)
	switch {
	case errors.Is(err, badger.ErrKeyNotFound):
		return queue.Receipt{}, fmt.Errorf("idempotency key %q: %w", k.Name, queue.ErrNotFound)
	case err != nil:
		return queue.Receipt{}, err
	case rec.Hash != k.Hash:
		return queue.Receipt{}, queue.ErrMismatch
	case rec.Seq == erasedSeq:
		return queue.Receipt{}, fmt.Errorf("the submission with this idempotency key: %w", queue.ErrErased)
	}
	r := queue.Receipt{Replayed: true, Answer: rec.Answer}
	if seq := rec.Event(); seq != 0 {
		r.Event, err = s.getEvent(txn, seq)
	}
	if err != nil && !errors.Is(err, queue.ErrNotFound) {
		return queue.Receipt{}, err
	}
	return r, nil
}

// replaced reads the event that an update replaces. If the store has no redacted events,
// the caller needs nothing from it, and replaced returns an empty event.
func (b *batch) replaced(seq uint64) (queue.Event, error) {
	if !b.s.redacted.Load() {
		return queue.Event{}, nil
	}
	return b.s.getHeader(b.txn, seq)
}

// held looks up the feedback of an entry and checks that the entry fits it. An update
// must replace the latest event of the feedback. An entry that creates a feedback which
// the store already holds must be a repeat of the submission that created it.
func (b *batch) held(e *queue.Entry) (heldFeedback, error) {
	if e.Feedback.IsZero() {
		return heldFeedback{}, nil
	}
	erased, err := b.s.isErased(b.txn, e.Feedback)
	if err != nil {
		return heldFeedback{}, err
	}
	if erased {
		return heldFeedback{}, errErased(e.Feedback)
	}
	h, err := b.s.lookUp(b.txn, e.Feedback)
	switch {
	case err != nil:
		return h, err
	case !e.Replaces.IsZero():
		if !h.is || h.Seq != e.Replaces.Seq() || e.Replaces.Tag() != b.s.tags.Of(h.Seq) {
			return h, fmt.Errorf("%s has another latest event than %s: %w", e.Feedback, e.Replaces, queue.ErrConflict)
		}
		if latest, err := b.replaced(h.Seq); err != nil || latest.Redacted {
			return h, fmt.Errorf("%s: %w", e.Feedback, cmp.Or(err, queue.ErrRedacted))
		}
	case h.is: // Promise 6: creating feedback never replaces other feedback.
		if h.former {
			h.Origin, err = formerOrigin(b.txn, e.Feedback)
		}
		if err == nil && (e.Origin != h.Origin || e.Origin == [32]byte{}) {
			err = fmt.Errorf("%s: %w", e.Feedback, queue.ErrExists)
		}
	}
	return h, err
}
