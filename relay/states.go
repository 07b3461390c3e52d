package relay

import (
	"context"
	"fmt"
	"time"

	"github.com/userhero/relay/relay/notify"
)

// repostWithin is how long after a notice it can be posted again safely. It is a little
// less than the 24 hours for which the notice's idempotency key prevents a duplicate.
const repostWithin = 23 * time.Hour

// setState moves the webhook to another state, stores it and posts a notice. It does
// nothing if the webhook already has that state or is disabled.
func (w *webhook) setState(to, reason string, at time.Time) {
	_ = w.storeLock.lock(context.Background()) // its holder gives up after storeTime
	defer w.storeLock.unlock()
	w.mu.Lock()
	from, since := w.record.State, w.record.FailingSince
	if from == to || from == Disabled {
		w.mu.Unlock()
		return
	}
	w.record.State, w.record.Reason = to, reason
	w.record.FailingSince, w.record.DisabledSince = time.Time{}, time.Time{}
	if to == Disabled {
		w.record.DisabledSince = at.UTC().Truncate(time.Millisecond) // as precise as the times of events
	}
	episode := w.record.Episode // it began with a warning or with the failing state
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
		w.breaker.Trip(w.ladderLocked())
	}
	if since.IsZero() {
		since = at
	}
	kind := map[string]string{Active: notify.Recovered, Failing: notify.Failing, Disabled: notify.Disabled}[to]
	notice := w.reportLocked(lastNotice{Kind: kind, Reason: reason, Episode: episode, Since: since, At: at, StateChanged: true})
	w.endOutageLocked()
	w.mu.Unlock()
	w.wake(true)
	w.writeRecordOrLog()
	if w.currentState() != to {
		return // another relay has changed it at the same time, and that counts
	}
	w.relay.stateChanged(w.name(), from, to, reason)
	what := "webhook " + to
	if to == Active {
		what = "webhook recovered"
		w.relay.log.Info(what, "webhook", w.name())
	} else {
		w.relay.log.Warn(what, "webhook", w.name(), "reason", reason)
	}
	w.relay.Note(Activity{What: what, Who: "relay", Webhook: w.name(), Detail: reason})
	w.relay.notices.Post(notice)
}

func (w *webhook) currentState() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.record.State
}

// setByOwner enables or disables the webhook at a person's request.
func (w *webhook) setByOwner(ctx context.Context, to, reason, who string) error {
	if err := w.storeLock.lock(ctx); err != nil {
		return err
	}
	defer w.storeLock.unlock()
	w.mu.Lock()
	before, from := w.record, w.stateLocked()
	w.record.State, w.record.Reason, w.record.FailingSince = to, reason, time.Time{}
	switch {
	case to != Disabled:
		w.record.DisabledSince = time.Time{}
	case from != Disabled:
		w.record.DisabledSince = time.Now().UTC().Truncate(time.Millisecond)
	}
	w.record.Episode = time.Time{}
	w.endOutageLocked()
	after := w.stateLocked()
	w.mu.Unlock()
	if err := w.writeRecord(ctx); err != nil {
		w.mu.Lock()
		w.record = before
		w.mu.Unlock()
		w.wake(true)
		w.rewriteRecord(err)
		return err
	}
	if to == Active {
		w.mu.Lock()
		w.breaker.Reset()
		w.window.Restart(w.underWay)
		w.mu.Unlock()
	}
	w.wake(true)
	if to == Active && after == Disabled {
		return fmt.Errorf("webhook %q is disabled in the configuration file; enable it there: %w", w.name(), ErrReadOnly)
	}
	if from == after {
		return nil
	}
	w.relay.stateChanged(w.name(), from, after, reason)
	what := "webhook enabled"
	if to == Disabled {
		what = "webhook disabled"
	}
	w.relay.log.Info(what, "webhook", w.name(), "by", who)
	w.relay.Note(Activity{What: what, Who: who, Webhook: w.name()})
	return nil
}

// reportLocked records the last notice with what it tells of the webhook, and returns it.
func (w *webhook) reportLocked(n lastNotice) notify.Notice {
	if w.target != nil {
		n.URL, n.Owners, n.Projects = w.target.ShownURL(), w.target.config.Notify, w.target.config.Projects
	}
	w.record.LastNotice = n
	return w.noticeLocked()
}

// noticeLocked returns the last notice. The notices of one episode share a thread,
// which is named by the time the episode began.
//
// Promise 6: who gets it is decided by what the webhook was when its state changed. It
// may belong to other projects and owners when the notice is posted again.
func (w *webhook) noticeLocked() notify.Notice {
	t := w.record.LastNotice
	return notify.Notice{
		Kind: t.Kind, ID: w.id, Webhook: w.name(), URL: t.URL, Projects: t.Projects, Owners: t.Owners,
		At: t.At.UTC(), Since: t.Since.UTC(), Reason: t.Reason,
		Thread: fmt.Sprintf("%d-%d", w.id, t.Episode.UnixMilli()), Operational: t.StateChanged,
	}
}

// repostNotice posts the last notice again, in case a crash came between the change of
// state and the notice. It does not send a notice twice.
func (w *webhook) repostNotice() {
	w.mu.Lock()
	last, notice := w.record.LastNotice.At, w.noticeLocked()
	w.mu.Unlock()
	if !last.IsZero() && time.Since(last) < repostWithin {
		w.relay.notices.Post(notice)
	}
}

func (w *webhook) ladderLocked() []time.Duration {
	if w.target == nil {
		return nil
	}
	return w.target.config.Retry
}

// noteFailureLocked records a failed attempt. If a warning is configured, it starts its
// timer. The timer does not survive a restart: it starts again with the next failure.
func (w *webhook) noteFailureLocked(at time.Time) {
	if w.outage.since.IsZero() {
		w.outage.since = at
	}
	if w.outage.warning != nil || w.target == nil || w.target.config.WarnAfter == 0 || w.record.State != Active || !w.record.Episode.IsZero() {
		return
	}
	w.outage.warning = time.AfterFunc(w.target.config.WarnAfter-at.Sub(w.outage.since), w.warn)
}

// endOutageLocked records that the outage is over: an attempt succeeded, or the state
// changed.
func (w *webhook) endOutageLocked() {
	if w.outage.warning != nil {
		w.outage.warning.Stop()
	}
	w.outage = outage{}
}

// warn posts a warning: every attempt has failed for WarnAfter, and retries are left.
func (w *webhook) warn() {
	now := time.Now()
	if w.relay.lanes.Err() != nil {
		return
	}
	if current, err := w.relay.find(w.name()); err != nil || current != w || !w.owns() {
		return // deleted, or another relay's lane by now
	}
	_ = w.storeLock.lock(context.Background()) // its holder gives up after storeTime
	defer w.storeLock.unlock()
	w.mu.Lock()
	w.outage.warning = nil
	since, reason := w.outage.since, w.record.LastAnswer.Error
	if since.IsZero() || w.record.State != Active || !w.enabledLocked() || !w.record.Episode.IsZero() {
		w.mu.Unlock()
		return
	}
	w.record.Episode = since.UTC()
	notice := w.reportLocked(lastNotice{Kind: notify.Warning, Reason: reason, Episode: since, Since: since, At: now})
	w.mu.Unlock()
	w.writeRecordOrLog()
	w.relay.log.Warn("webhook in trouble", "webhook", w.name(), "since", since, "reason", reason)
	w.relay.Note(Activity{What: "webhook in trouble", Who: "relay", Webhook: w.name(), Detail: reason})
	w.relay.notices.Post(notice)
}

// recoveredAfterWarning posts a notice that a webhook recovered. The webhook had a
// warning but was never failing.
func (w *webhook) recoveredAfterWarning(at time.Time) {
	_ = w.storeLock.lock(context.Background()) // its holder gives up after storeTime
	defer w.storeLock.unlock()
	w.mu.Lock()
	episode := w.record.Episode
	if w.record.State != Active || episode.IsZero() {
		w.mu.Unlock()
		return
	}
	w.record.Episode = time.Time{}
	notice := w.reportLocked(lastNotice{Kind: notify.Recovered, Episode: episode, Since: episode, At: at})
	w.mu.Unlock()
	w.writeRecordOrLog()
	w.relay.log.Info("webhook recovered", "webhook", w.name())
	w.relay.Note(Activity{What: "webhook recovered", Who: "relay", Webhook: w.name()})
	w.relay.notices.Post(notice)
}
