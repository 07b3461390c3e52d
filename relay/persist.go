package relay

import (
	"context"
	"errors"

	"github.com/userhero/relay/queue"
)

func (w *webhook) putOnce(ctx context.Context) error {
	w.mu.Lock()
	w.record.Hours, w.record.HeldUntil = w.tally.stored(), w.breaker.hold.UTC()
	data := w.record.encode()
	w.mu.Unlock()
	stored, err := w.relay.queue.PutWebhook(ctx, queue.Webhook{
		ID: w.id, Name: w.name, Revision: w.revision, Expires: w.parked, Data: data,
	})
	if err != nil {
		return err
	}
	w.revision = stored.Revision
	return nil
}

// put stores the record; storing is held.
func (w *webhook) put(ctx context.Context) error {
	err := w.putOnce(ctx)
	if !errors.Is(err, queue.ErrConflict) {
		return err
	}
	// Nobody else writes it: a write that was given up was made after all.
	if err := w.reread(ctx); err != nil {
		return err
	}
	return w.putOnce(ctx)
}

// reread finds the revision the store has; storing is held.
func (w *webhook) reread(ctx context.Context) error {
	stored, err := w.relay.stored(ctx, w.name)
	if err == nil && stored.ID != w.id {
		err = queue.ErrNotFound
	}
	if err == nil {
		w.revision = stored.Revision
	}
	return err
}

// putBack stores the record as it was, where a change of it was given up and may
// be written yet; storing is held.
func (w *webhook) putBack(err error) {
	if errors.Is(err, queue.ErrClosed) || errors.Is(err, queue.ErrFailed) || errors.Is(err, queue.ErrNotFound) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeTime)
	defer cancel()
	if err := w.put(ctx); err != nil {
		w.relay.log.Warn("a change of a webhook was given up, and may be found made after a crash", "webhook", w.name, "error", err)
	}
}

// save stores the record at the end, so that times shown survive a restart.
func (w *webhook) save() {
	ctx, cancel := context.WithTimeout(context.Background(), storeTime)
	defer cancel()
	if w.storing.take(ctx) != nil {
		return // the store has stood still for so long that nothing is written any more
	}
	defer w.storing.release()
	if err := w.put(ctx); err != nil && !errors.Is(err, queue.ErrClosed) && !errors.Is(err, queue.ErrFailed) {
		w.relay.log.Warn("a webhook's state was not stored", "webhook", w.name, "error", err)
	}
}

// store stores the record, if it can; storing is held.
func (w *webhook) store() {
	ctx, cancel := context.WithTimeout(context.Background(), storeTime)
	defer cancel()
	if err := w.put(ctx); err != nil {
		w.relay.log.Error("a webhook's state was not stored", "webhook", w.name, "error", err)
	}
}

// isParked tells whether the store has the webhook as parked.
func (w *webhook) isParked(ctx context.Context) (bool, error) {
	if err := w.storing.take(ctx); err != nil {
		return false, err
	}
	defer w.storing.release()
	return w.parked, nil
}
