package relay

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/expression"
	"github.com/userhero/relay/relay/notify"
)

// remindWithin is for how long a notice's key keeps it from being posted twice,
// and a little less.
const remindWithin = 23 * time.Hour

// webhook is one receiver at run time. Its goroutine, run, takes deliveries from
// the lane; workers attempt them; both find here what is in force.
//
//	          a ladder ran out
//	active ─────────────────────► failing
//	  ▲  ▲ ◄────────────────────── │
//	  │  └─  a 2xx                 │ 410, owner
//	  │ owner                      ▼
//	  └───────────────────────── disabled
type webhook struct {
	relay *Relay
	id    queue.WebhookID
	name  string
	// consuming is what the spans of its attempts start with.
	consuming []trace.SpanStartOption
	// changed wakes run: settings, state, or a place that became free.
	changed chan struct{}
	life

	// storing serialises what is written of the webhook; taken before mu.
	storing  turn
	revision uint64 // as stored; guarded by storing
	parked   bool   // as stored; guarded by storing

	mu        sync.Mutex // guards everything below
	record    record
	target    *target // nil: parked
	limiter   *rate.Limiter
	breaker   breaker
	window    window
	ailment   ailment
	underWay  int
	listening context.Context    // of the lane's Next, this one and those that come; nil before the first
	interrupt context.CancelFunc // ends listening
	failure   error              // why the lane cannot be read
	tally     tally
	// filterErrors are those of the filter in force.
	filterErrors FilterErrors

	warnedAttempt, warnedDelivery, warnedStore, warnedFilter seldom // of the log
}

func newWebhook(r *Relay, s queue.Webhook, rec record) *webhook {
	w := &webhook{
		relay: r, id: s.ID, name: s.Name, revision: s.Revision, parked: s.Expires, record: rec,
		consuming: startOptions(consumer, describeProcess(s.Name)),
		changed:   make(chan struct{}, 1),
		life:      r.newLife(),
		storing:   make(turn, 1),
	}
	w.tally.restore(rec.Hours)
	if now := time.Now(); now.Before(rec.HeldUntil) {
		w.breaker.holdOff(now, rec.HeldUntil.Sub(now))
	}
	if rec.State == Failing {
		// A clock that was set back since must not put the next probe off.
		w.breaker.lastTime = rec.LastAttempt
		if now := time.Now(); now.Before(rec.LastAttempt) {
			w.breaker.lastTime = now
		}
		w.breaker.trip(nil)
	}
	return w
}

// life is one life of the webhook's goroutine, run: a webhook that is deleted
// ends it, and one that could not be deleted gets another.
type life struct {
	lanes    context.Context // ends run
	attempts context.Context // ends what is under way, uncounted
	quit     context.CancelFunc
	ended    chan struct{} // closed when run has ended
}

func (r *Relay) newLife() life {
	l := life{ended: make(chan struct{})}
	lanes, stop := context.WithCancel(r.lanes)
	attempts, cut := context.WithCancelCause(r.attempts)
	l.lanes, l.attempts = lanes, attempts
	l.quit = func() { stop(); cut(errDeleted) }
	return l
}

// stop ends run and what is under way, which does not count, and waits for that.
func (w *webhook) stop(ctx context.Context) error {
	w.quit()
	select {
	case <-w.ended:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// revive begins another life, after a stop; r.attachMu is held.
func (w *webhook) revive() {
	before := w.ended
	w.life = w.relay.newLife()
	w.relay.mu.RLock()
	runs := w.relay.started && !w.relay.stopped
	w.relay.mu.RUnlock()
	if runs {
		now := w.life
		w.relay.running.Go(func() {
			<-before // a webhook has one lane
			w.run(now)
		})
	}
}

// configure puts a target in force; nil parks the webhook.
func (w *webhook) configure(ctx context.Context, t *target) error {
	if err := w.storing.take(ctx); err != nil {
		return err
	}
	defer w.storing.release()
	w.mu.Lock()
	before := w.stateLocked()
	former := w.target
	if t == nil || former == nil || t.config.Filter != former.config.Filter {
		w.filterErrors = FilterErrors{}
	}
	w.target = t
	if t != nil && former != nil {
		t.Inherit(former.Receiver)
		if t.config.URL != former.config.URL {
			w.breaker.hold = time.Time{} // another receiver has not asked for it
		}
	}
	if t != nil {
		w.window.set(t.config.Concurrency)
		w.limiter = newLimiter(t.config.Rate, w.limiter)
	}
	after := w.stateLocked()
	w.mu.Unlock()
	w.wake(true)
	if before != after {
		w.relay.stateChanged(w.name, before, after, "")
	}
	parked := w.parked
	if w.parked = t == nil; w.parked == parked {
		return nil
	}
	if w.parked {
		w.relay.log.Warn("a webhook has left the configuration; what waits for it is kept until it comes back or expires",
			"webhook", w.name, "waiting", w.relay.queue.Stats().Webhooks[w.id].Waiting())
	} else {
		w.relay.log.Info("a webhook is in the configuration again", "webhook", w.name)
	}
	err := w.put(ctx)
	if err != nil {
		// Stored as parked, what waits could expire.
		w.parked = parked
		w.putBack(err)
	}
	return err
}

// aim is the target in force; nil where the webhook is parked.
func (w *webhook) aim() *target {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.target
}

// isParked tells whether the store has the webhook as parked.
func (w *webhook) isParked(ctx context.Context) (bool, error) {
	if err := w.storing.take(ctx); err != nil {
		return false, err
	}
	defer w.storing.release()
	return w.parked, nil
}

// newLimiter keeps the old one where the rate is the same.
func newLimiter(r Rate, old *rate.Limiter) *rate.Limiter {
	if r.Events == 0 {
		return nil
	}
	limit := rate.Limit(float64(r.Events) / r.Per.Seconds())
	if old != nil && old.Limit() == limit {
		return old
	}
	// A tenth of a second's worth may go at once.
	return rate.NewLimiter(limit, max(1, int(limit/10)))
}

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

// stateLocked is the state people see: the stored one, unless the
// configuration disables the webhook.
func (w *webhook) stateLocked() string {
	if w.target != nil && w.target.config.Disabled {
		return Disabled
	}
	return w.record.State
}

// takesLocked tells whether deliveries go out, as far as settings say.
func (w *webhook) takesLocked() bool { return w.target != nil && w.stateLocked() != Disabled }

func (w *webhook) takes() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.takesLocked()
}

// added are the settings of a webhook that was added through the API; nil of
// others.
func (w *webhook) added() *storedConfig {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.record.Config
}

// wants reports whether an event is of a type and kind that the webhook asks
// for. An error says why its filter could not judge the event.
func (w *webhook) wants(t event.Type, doc *expression.Document) (bool, error) {
	target := w.aim()
	if target == nil {
		return false, nil
	}
	if events := target.config.Events; len(events) > 0 && !slices.Contains(events, t) {
		return false, nil
	}
	return target.filter.Match(doc)
}

// filterFailed counts an event that the webhook's filter could not judge.
func (w *webhook) filterFailed(err error) {
	now := time.Now()
	w.mu.Lock()
	w.filterErrors.Count++
	w.filterErrors.Last, w.filterErrors.At = err.Error(), now
	others, tell := w.warnedFilter.allows(now)
	w.mu.Unlock()
	w.relay.observer.FilterFailed(w.name)
	if tell {
		w.relay.log.Warn("a filter could not judge an event, which is not sent; correct the filter, then redeliver what the webhook missed",
			"webhook", w.name, "error", err, "others", others)
	}
}

func (w *webhook) trouble() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failure != nil {
		return fmt.Errorf("webhook %s gets nothing: %w", w.name, w.failure)
	}
	return nil
}

// wake makes run look again; interrupting also when it waits for the lane.
func (w *webhook) wake(interrupting bool) {
	select {
	case w.changed <- struct{}{}:
	default:
	}
	if !interrupting {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.interrupt != nil {
		w.interrupt()
	}
}

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

// probeNow lets the next probe out at once, because somebody who may know that
// the receiver is back asks for it. A receiver that asked for time gets it.
func (w *webhook) probeNow() {
	w.mu.Lock()
	w.breaker.probe = time.Time{}
	w.mu.Unlock()
	w.wake(false)
}

func (w *webhook) ladderLocked() []time.Duration {
	if w.target == nil {
		return nil
	}
	return w.target.config.Retry
}

func (w *webhook) status(c queue.Counts) WebhookStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := WebhookStatus{
		ID: w.id, Name: w.name, Source: w.record.Source, State: w.stateLocked(), Parked: w.target == nil,
		FailingSince: w.record.FailingSince, Reason: w.record.Reason,
		FilterErrors: w.filterErrors,
		LastSuccess:  w.record.LastSuccess, LastAttempt: w.record.LastAttempt, LastAnswer: w.record.LastAnswer,
		Counts: Counts{Pending: c.Pending, Retrying: c.Retrying, Failed: c.Failed, Delivered: c.Delivered},
	}
	if s.Probing = w.breaker.open && w.takesLocked(); s.Probing && !w.breaker.probing {
		s.NextProbe = w.breaker.probe
	}
	if time.Now().Before(w.breaker.hold) {
		s.HeldUntil = w.breaker.hold
	}
	if !w.takesLocked() {
		s.Counts.Held, s.Counts.Pending, s.Counts.Retrying = c.Waiting(), 0, 0
	}
	if t := w.target; t != nil {
		s.URL, s.Events, s.Filter = t.config.URL, t.config.Events, t.config.Filter
		s.Retry, s.Timeout, s.Concurrency = t.config.Retry, t.config.Timeout, t.config.Concurrency
		s.Headers = slices.Sorted(maps.Keys(t.config.Header))
		s.Rate, s.Ordered, s.HasSecret, s.TLS = t.config.Rate, t.config.Ordered, t.config.Secret != "", t.TLS()
		if t.Rotating(time.Now()) {
			s.PreviousUntil = t.config.PreviousUntil
		}
	}
	return s
}
