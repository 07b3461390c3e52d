package relay

import (
	"context"
	"fmt"
	"time"

	"github.com/userhero/relay/relay/notify"
)

// remindWithin is for how long a notice's key keeps it from being posted twice,
// and a little less.
const remindWithin = 23 * time.Hour

// change moves the webhook to another state, stores that, and tells who cares.
// It does nothing where the webhook has no such move to make.
func (w *webhook) change(to, reason string, at time.Time) {
	_ = w.storing.take(context.Background()) // who has it gives up by himself
	defer w.storing.release()
	w.mu.Lock()
	from, since := w.record.State, w.record.FailingSince
	if from == to || from == Disabled {
		w.mu.Unlock()
		return
	}
	w.record.State, w.record.Reason = to, reason
	w.record.FailingSince = time.Time{}
	episode := w.record.Episode // a warning began it, or failing did
	switch {
	case !episode.IsZero():
	case since.IsZero():
		episode = at.UTC()
	default:
		episode = since
	}
	w.record.Episode = time.Time{}
	if to == Failing {
		w.record.FailingSince, w.record.Episode = at.UTC(), episode
		w.breaker.trip(w.ladderLocked())
	}
	if since.IsZero() {
		since = at
	}
	kind := map[string]string{Active: notify.Recovered, Failing: notify.Failing, Disabled: notify.Disabled}[to]
	w.record.Told = told{Kind: kind, Reason: reason, Episode: episode, Since: since, At: at}
	notice := w.noticeLocked()
	w.untroubledLocked()
	w.mu.Unlock()
	w.wake(true)
	ctx, cancel := context.WithTimeout(context.Background(), storeTime)
	defer cancel()
	if err := w.put(ctx); err != nil {
		w.relay.log.Error("a webhook's state was not stored", "webhook", w.name, "state", to, "error", err)
	}
	w.relay.stateChanged(w.name, from, to, reason)
	what := "webhook " + to
	if to == Active {
		what = "webhook recovered"
		w.relay.log.Info(what, "webhook", w.name)
	} else {
		w.relay.log.Warn(what, "webhook", w.name, "reason", reason)
	}
	w.relay.note(activity{What: what, Who: "relay", Webhook: w.name, Detail: reason})
	w.relay.notices.Post(notice)
}

// setByOwner enables or disables the webhook because somebody said so.
func (w *webhook) setByOwner(ctx context.Context, to, reason, who string) error {
	if err := w.storing.take(ctx); err != nil {
		return err
	}
	defer w.storing.release()
	w.mu.Lock()
	before, from := w.record, w.stateLocked()
	w.record.State, w.record.Reason, w.record.FailingSince = to, reason, time.Time{}
	w.record.Episode = time.Time{}
	w.untroubledLocked()
	after := w.stateLocked()
	w.mu.Unlock()
	if err := w.put(ctx); err != nil {
		w.mu.Lock()
		w.record = before
		w.mu.Unlock()
		w.wake(true)
		w.putBack(err)
		return err
	}
	if to == Active {
		w.mu.Lock()
		w.breaker.reset()
		w.window.restart(w.underWay)
		w.mu.Unlock()
	}
	w.wake(true)
	if to == Active && after == Disabled {
		return fmt.Errorf("webhook %q is disabled in the configuration file; enable it there: %w", w.name, ErrReadOnly)
	}
	if from == after {
		return nil
	}
	w.relay.stateChanged(w.name, from, after, reason)
	what := "webhook enabled"
	if to == Disabled {
		what = "webhook disabled"
	}
	w.relay.log.Info(what, "webhook", w.name, "by", who)
	w.relay.note(activity{What: what, Who: who, Webhook: w.name})
	return nil
}

// noticeLocked is the last notice. What belongs to one time of failing has one
// thread, named by when that episode began.
func (w *webhook) noticeLocked() notify.Notice {
	t := w.record.Told
	n := notify.Notice{
		Kind: t.Kind, Webhook: w.name, At: t.At.UTC(), Since: t.Since.UTC(), Reason: t.Reason,
		Thread: fmt.Sprintf("%d-%d", w.id, t.Episode.UnixMilli()),
	}
	if w.target != nil {
		n.URL = w.target.ShownURL()
	}
	return n
}

// remind posts the last notice, lest a crash came between the change of state
// and the notice. One that was posted is not posted twice.
func (w *webhook) remind() {
	w.mu.Lock()
	last, notice := w.record.Told.At, w.noticeLocked()
	w.mu.Unlock()
	if !last.IsZero() && time.Since(last) < remindWithin {
		w.relay.notices.Post(notice)
	}
}

func (w *webhook) ladderLocked() []time.Duration {
	if w.target == nil {
		return nil
	}
	return w.target.config.Retry
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
