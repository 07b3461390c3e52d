package relay

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/tally"
)

// writeOnce writes the record. The caller holds storeLock.
func (w *webhook) writeOnce(ctx context.Context) error {
	w.mu.Lock()
	w.noteForStoreLocked()
	data := w.record.encode()
	w.mu.Unlock()
	put := queue.Webhook{ID: w.id, Name: w.name(), Revision: w.stored.Revision, Expires: w.parked, Data: data}
	if w.attempted == nil && put.Name == w.stored.Name && put.Expires == w.stored.Expires && bytes.Equal(data, w.stored.Data) {
		return nil
	}
	stored, err := w.relay.queue.PutWebhook(ctx, put)
	if err != nil {
		if !errors.Is(err, queue.ErrConflict) {
			w.attempted = data
		}
		return err
	}
	w.stored, w.attempted = stored, nil
	return nil
}

// noteForStoreLocked copies state that is kept elsewhere in memory into the record.
func (w *webhook) noteForStoreLocked() {
	w.record.Stored, w.record.HeldUntil = w.tally.Stored(), w.breaker.HeldUntil().UTC()
}

// writeRecord writes the record. If another relay has changed it, or an earlier write
// that timed out has succeeded, it merges both. The caller holds storeLock.
func (w *webhook) writeRecord(ctx context.Context) error {
	for {
		err := w.writeOnce(ctx)
		if !errors.Is(err, queue.ErrConflict) {
			return err
		}
		newer, readErr := w.readStored(ctx)
		if readErr != nil {
			return readErr
		}
		if !newer {
			return err // the name is taken
		}
	}
}

// readStored reads the record from the store and merges it with what this relay has
// changed. It reports whether it was newer. The caller holds storeLock.
func (w *webhook) readStored(ctx context.Context) (newer bool, err error) {
	s, err := w.relay.storedWebhook(ctx, func(s queue.Webhook) bool { return s.ID == w.id })
	if err != nil || s.Revision == w.stored.Revision {
		return false, err
	}
	return true, w.adopt(s)
}

// adopt merges a record from the store, which another relay has changed, with what this
// relay has changed. The caller holds storeLock.
func (w *webhook) adopt(s queue.Webhook) error {
	theirs, err := decodeRecord(s)
	if err != nil {
		return err
	}
	// What the store has made of a write of this relay that timed out is no change of
	// another relay: the caller was told that it failed.
	base := theirs
	if w.relay.shared && !bytes.Equal(s.Data, w.attempted) {
		if base, err = decodeRecord(w.stored); err != nil {
			return err
		}
	}
	named := w.name()
	w.mu.Lock()
	w.noteForStoreLocked()
	before := w.record.State
	mine := w.record.asStored(w.name())
	w.record = mine.merge(base, theirs)
	w.tally = tally.Webhook{}
	w.tally.Restore(w.record.Stored)
	w.breaker.EndHold()
	if now := time.Now(); now.Before(w.record.HeldUntil) {
		w.breaker.HoldOff(now, w.record.HeldUntil.Sub(now))
	}
	switch after := w.record.State; {
	case before == after:
	case after == Failing:
		w.endOutageLocked()
		w.tripLocked()
	case after == Active:
		w.endOutageLocked()
		w.breaker.Reset()
		w.window.Restart(w.underWay)
	}
	if c := w.record.Config; c != nil && c.Name != named {
		w.named.Store(newNaming(c.Name))
	}
	w.mu.Unlock()
	if w.name() != named {
		w.relay.renamed(w, named)
	}
	w.stored, w.attempted = s, nil
	w.wake(true)
	return nil
}

// rewriteRecord writes the record as it was before a change that failed with err,
// because the store may still make that change. If other relays work on the store, it
// writes nothing: one of them may have seen the change, and this relay follows what the
// store holds. The caller holds storeLock.
func (w *webhook) rewriteRecord(err error) {
	if w.relay.shared {
		w.attempted = nil
		return
	}
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
