package relay

import (
	"context"
	"errors"
	"time"

	"github.com/userhero/relay/queue"
)

// Day is the last day of all webhooks.
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

// WebhookDay is the last day of one webhook; false if there is none.
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

// keepTallies stores them at the end of each hour, until the lanes end.
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

// saveTally stores what no webhook's record holds. One goroutine calls it at a
// time: keepTallies, and Stop after that.
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
