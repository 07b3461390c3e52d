package relay

import (
	"context"
	"time"

	"github.com/userhero/relay/relay/notify"
)

// ailment is a time in which a webhook has failed every attempt. Before its
// first ladder has run out, the owner may want a warning.
type ailment struct {
	since time.Time // of the first failed attempt; zero: the last one succeeded
	alarm *time.Timer
}

// troubledLocked notes a failed attempt, and sets the alarm where a warning is
// wanted. A process that ends forgets it: the time begins again with the next
// failure.
func (w *webhook) troubledLocked(at time.Time) {
	if w.ailment.since.IsZero() {
		w.ailment.since = at
	}
	if w.ailment.alarm != nil || w.target == nil || w.target.config.WarnAfter == 0 || w.record.State != Active || !w.record.Episode.IsZero() {
		return
	}
	w.ailment.alarm = time.AfterFunc(w.target.config.WarnAfter-at.Sub(w.ailment.since), w.warn)
}

// untroubledLocked notes that the webhook answers, or is another's concern.
func (w *webhook) untroubledLocked() {
	if w.ailment.alarm != nil {
		w.ailment.alarm.Stop()
	}
	w.ailment = ailment{}
}

// warn tells that the webhook has been failing for as long as its owner bears,
// though retries are left.
func (w *webhook) warn() {
	now := time.Now()
	if w.relay.lanes.Err() != nil {
		return
	}
	if current, err := w.relay.find(w.name); err != nil || current != w {
		return // deleted
	}
	_ = w.storing.take(context.Background()) // who has it gives up by himself
	defer w.storing.release()
	w.mu.Lock()
	w.ailment.alarm = nil
	since, reason := w.ailment.since, w.record.LastAnswer.Error
	if since.IsZero() || w.record.State != Active || !w.takesLocked() || !w.record.Episode.IsZero() {
		w.mu.Unlock()
		return
	}
	w.record.Episode = since.UTC()
	w.record.Told = told{Kind: notify.Warning, Reason: reason, Episode: since, Since: since, At: now}
	notice := w.noticeLocked()
	w.mu.Unlock()
	w.store()
	w.relay.log.Warn("webhook in trouble", "webhook", w.name, "since", since, "reason", reason)
	w.relay.note(activity{What: "webhook in trouble", Who: "relay", Webhook: w.name, Detail: reason})
	w.relay.notices.Post(notice)
}

// calmed tells that a webhook of which a warning went out answers again before
// it came to fail.
func (w *webhook) calmed(at time.Time) {
	_ = w.storing.take(context.Background()) // as above
	defer w.storing.release()
	w.mu.Lock()
	episode := w.record.Episode
	if w.record.State != Active || episode.IsZero() {
		w.mu.Unlock()
		return
	}
	w.record.Episode = time.Time{}
	w.record.Told = told{Kind: notify.Recovered, Episode: episode, Since: episode, At: at}
	notice := w.noticeLocked()
	w.mu.Unlock()
	w.store()
	w.relay.log.Info("webhook recovered", "webhook", w.name)
	w.relay.note(activity{What: "webhook recovered", Who: "relay", Webhook: w.name})
	w.relay.notices.Post(notice)
}

// store stores the record, if it can; storing is held.
func (w *webhook) store() {
	ctx, cancel := context.WithTimeout(context.Background(), storeTime)
	defer cancel()
	if err := w.put(ctx); err != nil {
		w.relay.log.Error("a webhook's state was not stored", "webhook", w.name, "error", err)
	}
}
