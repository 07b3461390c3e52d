package relay

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/tally"
)

// Day returns the counts of the last 24 hours, for all webhooks together.
func (r *Relay) Day() tally.Day {
	now := time.Now()
	d := tally.NewDay(now)
	for _, w := range r.all() {
		w.mu.Lock()
		w.addDayLocked(&d, now)
		w.mu.Unlock()
	}
	r.tally.AddTo(&d, now)
	return d
}

// DayOf returns the counts of the last 24 hours of some webhooks. It has neither
// accepted events nor the times of first attempts.
func (r *Relay) DayOf(names []string) tally.Day {
	now := time.Now()
	d := tally.NewDay(now)
	for _, name := range names {
		if w, err := r.find(name); err == nil {
			w.mu.Lock()
			w.tally.AddTo(&d, now)
			w.mu.Unlock()
		}
	}
	return d
}

// WebhookDay returns the counts of the last 24 hours for one webhook; false if it does
// not exist.
func (r *Relay) WebhookDay(name string) (tally.Day, bool) {
	w, err := r.find(name)
	if err != nil {
		return tally.Day{}, false
	}
	now := time.Now()
	d := tally.NewDay(now)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.addDayLocked(&d, now)
	return d, true
}

// WebhookSeries returns the series of a webhook over tally.LastDay, LastWeek or
// LastMonth, in hours, quarters of a day or days; false if the webhook does not exist.
func (r *Relay) WebhookSeries(name string, back time.Duration) (tally.Series, bool) {
	w, err := r.find(name)
	if err != nil {
		return tally.Series{}, false
	}
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	shown := w.shownTallyLocked()
	return shown.Series(now, back), true
}

// tallyRecord is the name of the record that holds the relay's own tally. It is not a
// valid webhook name.
const tallyRecord = ".tally"

// shareTally is how often a relay stores its own tally if others show it too.
const shareTally = 10 * time.Second

// keepTallies stores the tallies at the end of each hour. It returns when the lanes
// end. If the process is killed, only the counts since the last store are lost.
func (r *Relay) keepTallies() {
	var share <-chan time.Time
	if r.shared {
		tick := time.NewTicker(shareTally)
		defer tick.Stop()
		share = tick.C
	}
	for {
		now := time.Now()
		hour := time.NewTimer(tally.EndOfHour(now).Sub(now))
		select {
		case <-hour.C:
			for _, w := range r.all() {
				w.saveRecord()
			}
			r.saveTally()
		case <-share:
			r.saveTally()
		case <-r.lanes.Done():
			hour.Stop()
			return
		}
		hour.Stop()
	}
}

// saveTally stores the relay's own tally, which is in no webhook's record. If another
// relay has stored its tally, saveTally adds both.
func (r *Relay) saveTally() {
	ctx, cancel := context.WithTimeout(context.Background(), storeTime)
	defer cancel()
	if r.tallyLock.lock(ctx) != nil {
		return
	}
	defer r.tallyLock.unlock()
	for {
		put := r.tallyStored
		put.Name, put.Data = tallyRecord, r.tally.Encode()
		if bytes.Equal(put.Data, r.tallyStored.Data) {
			return
		}
		stored, err := r.queue.PutWebhook(ctx, put)
		if err == nil {
			r.tallyStored, r.tallyAttempted = stored, nil
			return
		}
		if !errors.Is(err, queue.ErrConflict) {
			r.tallyAttempted = put.Data
		}
		if errors.Is(err, queue.ErrConflict) {
			if stored, err = r.storedWebhook(ctx, withName(tallyRecord)); err == nil {
				err = r.addTally(stored)
			}
		}
		if err != nil {
			if !errors.Is(err, queue.ErrClosed) && !errors.Is(err, queue.ErrFailed) {
				r.log.Warn("the tally of the last hours was not stored", "error", err)
			}
			return
		}
	}
}

// adoptTally adds what another relay has counted.
func (r *Relay) adoptTally(s queue.Webhook) error {
	ctx, cancel := context.WithTimeout(r.lanes, storeTime)
	defer cancel()
	if err := r.tallyLock.lock(ctx); err != nil {
		return err
	}
	defer r.tallyLock.unlock()
	if s.Revision <= r.tallyStored.Revision {
		return nil
	}
	return r.addTally(s)
}

// addTally adds what another relay has counted since this relay read the stored tally.
// The caller holds tallyLock.
func (r *Relay) addTally(s queue.Webhook) error {
	// A write of this relay that timed out may have succeeded: its counts are its own.
	if r.shared && !bytes.Equal(s.Data, r.tallyAttempted) {
		if err := r.tally.Add(r.tallyStored.Data, s.Data); err != nil {
			return err
		}
	}
	r.tallyStored, r.tallyAttempted = s, nil
	return nil
}
