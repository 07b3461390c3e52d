package relay

import (
	"context"
	"errors"

	"github.com/userhero/relay/queue"
)

// writeOnce writes the record. The caller holds storeLock.
func (w *webhook) writeOnce(ctx context.Context) error {
	w.mu.Lock()
	w.record.Hours, w.record.HeldUntil = w.tally.stored(), w.breaker.hold.UTC()
	data := w.record.encode()
	w.mu.Unlock()
	stored, err := w.relay.queue.PutWebhook(ctx, queue.Webhook{
		ID: w.id, Name: w.name(), Revision: w.revision, Expires: w.parked, Data: data,
	})
	if err != nil {
		return err
	}
	w.revision = stored.Revision
	return nil
}

// writeRecord writes the record. The caller holds storeLock.
func (w *webhook) writeRecord(ctx context.Context) error {
	err := w.writeOnce(ctx)
	if !errors.Is(err, queue.ErrConflict) {
		return err
	}
	// Only this process writes the record, so an earlier write that timed out must have
	// succeeded.
	if err := w.readRevision(ctx); err != nil {
		return err
	}
	return w.writeOnce(ctx)
}

// readRevision reads the revision from the store. The caller holds storeLock.
func (w *webhook) readRevision(ctx context.Context) error {
	stored, err := w.relay.storedWebhook(ctx, func(s queue.Webhook) bool { return s.ID == w.id })
	if err == nil {
		w.revision = stored.Revision
	}
	return err
}

// rewriteRecord writes the record as it was before a change that failed with err,
// because the store may still make that change. The caller holds storeLock.
func (w *webhook) rewriteRecord(err error) {
	if errors.Is(err, queue.ErrClosed) || errors.Is(err, queue.ErrFailed) || errors.Is(err, queue.ErrNotFound) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeTime)
	defer cancel()
	if err := w.writeRecord(ctx); err != nil {
		w.relay.log.Warn("a change of a webhook was given up, and may be found made after a crash", "webhook", w.name(), "error", err)
	}
}

// saveRecord writes the record, so that tallies and times survive a restart.
func (w *webhook) saveRecord() {
	ctx, cancel := context.WithTimeout(context.Background(), storeTime)
	defer cancel()
	if w.storeLock.lock(ctx) != nil {
		return // the store has not answered for too long; give up
	}
	defer w.storeLock.unlock()
	if err := w.writeRecord(ctx); err != nil && !errors.Is(err, queue.ErrClosed) && !errors.Is(err, queue.ErrFailed) {
		w.relay.log.Warn("a webhook's state was not stored", "webhook", w.name(), "error", err)
	}
}

// writeRecordOrLog writes the record and logs an error. The caller holds storeLock.
func (w *webhook) writeRecordOrLog() {
	ctx, cancel := context.WithTimeout(context.Background(), storeTime)
	defer cancel()
	if err := w.writeRecord(ctx); err != nil {
		w.relay.log.Error("a webhook's state was not stored", "webhook", w.name(), "error", err)
	}
}

// isParked reports whether the store holds the webhook as parked.
func (w *webhook) isParked(ctx context.Context) (bool, error) {
	if err := w.storeLock.lock(ctx); err != nil {
		return false, err
	}
	defer w.storeLock.unlock()
	return w.parked, nil
}
