package relay

import (
	"context"
	"errors"
	"time"

	"github.com/userhero/relay/queue"
)

// Day returns the counts of the last 24 hours, for all webhooks together.
func (r *Relay) Day() Day {
	now := time.Now()
	d := newDay(now)
	for _, w := range r.all() {
		w.mu.Lock()
		w.tally.addTo(&d, now)
		w.mu.Unlock()
	}
	r.tally.addTo(&d, now)
	return d
}

// WebhookDay returns the counts of the last 24 hours for one webhook; false if it does
// not exist.
func (r *Relay) WebhookDay(name string) (Day, bool) {
	w, err := r.find(name)
	if err != nil {
		return Day{}, false
	}
	now := time.Now()
	d := newDay(now)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tally.addTo(&d, now)
	return d, true
}

// keepTallies stores the tallies at the end of each hour. It returns when the lanes
// end.
func (r *Relay) keepTallies() {
	for {
		now := time.Now()
		hour := time.NewTimer(time.Unix((hourOf(now)+1)*3600, 0).Sub(now))
		select {
		case <-hour.C:
			for _, w := range r.all() {
				w.saveRecord()
			}
			r.saveTally()
		case <-r.lanes.Done():
			hour.Stop()
			return
		}
	}
}

// saveTally stores the relay's own tally, which is in no webhook's record. One
// goroutine at a time calls it: keepTallies, and afterwards Stop.
func (r *Relay) saveTally() {
	ctx, cancel := context.WithTimeout(context.Background(), storeTime)
	defer cancel()
	r.tallyStored.Name, r.tallyStored.Data = tallyRecord, r.tally.encode()
	stored, err := r.queue.PutWebhook(ctx, r.tallyStored)
	if err != nil {
		if !errors.Is(err, queue.ErrClosed) && !errors.Is(err, queue.ErrFailed) {
			r.log.Warn("the tally of the last hours was not stored", "error", err)
		}
		return
	}
	r.tallyStored = stored
}
