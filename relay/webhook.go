package relay

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/expression"
)

// webhook is one webhook at run time. Its goroutine, run, takes deliveries from the
// lane and hands them to workers, which make the attempts. For the order of the locks
// see Relay.
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
	lifetime

	// storeLock serialises writes of the webhook's record.
	storeLock slowLock
	revision  uint64 // as stored; guarded by storeLock
	parked    bool   // as stored; guarded by storeLock

	mu        sync.Mutex // guards everything below
	record    record
	target    *target // nil: parked
	limiter   *rate.Limiter
	breaker   breaker
	window    window
	outage    outage
	underWay  int
	listening context.Context    // of the lane's Next, this one and those that come; nil before the first
	interrupt context.CancelFunc // ends listening
	failure   error              // why the lane cannot be read
	tally     tally
	// filterErrors are those of the filter in force.
	filterErrors FilterErrors

	warnedAttempt, warnedDelivery, warnedStore, warnedFilter logLimit // of the log
}

func newWebhook(r *Relay, s queue.Webhook, rec record) *webhook {
	w := &webhook{
		relay: r, id: s.ID, name: s.Name, revision: s.Revision, parked: s.Expires, record: rec,
		consuming: startOptions(consumer, describeProcess(s.Name)),
		changed:   make(chan struct{}, 1),
		lifetime:  r.newLifetime(),
		storeLock: make(slowLock, 1),
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

// lifetime is that of the webhook's goroutine, run. Deleting a webhook ends it; if the
// deletion fails, another one starts.
type lifetime struct {
	lanes    context.Context // ends run
	attempts context.Context // ends what is under way, uncounted
	quit     context.CancelFunc
	ended    chan struct{} // closed when run has ended
}

func (r *Relay) newLifetime() lifetime {
	l := lifetime{ended: make(chan struct{})}
	lanes, stop := context.WithCancel(r.lanes)
	attempts, cut := context.WithCancelCause(r.attempts)
	l.lanes, l.attempts = lanes, attempts
	l.quit = func() { stop(); cut(errDeleted) }
	return l
}

// currentTarget is the target in force; nil if the webhook is parked.
func (w *webhook) currentTarget() *target {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.target
}

// stateLocked is the state people see: the stored one, unless the
// configuration disables the webhook.
func (w *webhook) stateLocked() string {
	if w.target != nil && w.target.config.Disabled {
		return Disabled
	}
	return w.record.State
}

// enabledLocked reports whether the settings let deliveries go out.
func (w *webhook) enabledLocked() bool { return w.target != nil && w.stateLocked() != Disabled }

func (w *webhook) enabled() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.enabledLocked()
}

// apiConfig is the configuration of a webhook that was added through the API; nil for
// others.
func (w *webhook) apiConfig() *WebhookConfig {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.record.Config
}

// wants reports whether the webhook's event types and filter let an event through. The
// error says why the filter could not judge the event.
func (w *webhook) wants(t event.Type, doc *expression.Document) (bool, error) {
	target := w.currentTarget()
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
	others, tell := w.warnedFilter.allow(now)
	w.mu.Unlock()
	w.relay.observer.FilterFailed(w.name)
	if tell {
		w.relay.log.Warn("a filter could not judge an event, which is not sent; correct the filter, then redeliver what the webhook missed",
			"webhook", w.name, "error", err, "others", others)
	}
}

// laneError is why the webhook's lane cannot be read; nil if it can.
func (w *webhook) laneError() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failure != nil {
		return fmt.Errorf("webhook %s gets nothing: %w", w.name, w.failure)
	}
	return nil
}

// wake makes run look again, with interrupting even while it waits for the lane.
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

// outage is a time in which every attempt of a webhook has failed. The owner may want a
// warning before the first ladder has run out.
type outage struct {
	since   time.Time // of the first failed attempt; zero: the last one succeeded
	warning *time.Timer
}

// logLimit lets one of many similar lines into the log each minute. Its owner serialises
// the calls.
type logLimit struct {
	until      time.Time // quiet till then
	suppressed int       // lines since the last one logged
}

// allow reports whether to log this line, and how many were left out since the last.
func (s *logLimit) allow(now time.Time) (others int, ok bool) {
	if now.Before(s.until) {
		s.suppressed++
		return 0, false
	}
	others, s.suppressed, s.until = s.suppressed, 0, now.Add(repeatAfter)
	return others, true
}

// Levels are chosen so that at 1,000 events a second the log still reads as a
// story: ERROR is what somebody must repair, WARN what somebody should know of
// today, INFO what changed. What happens to each delivery is DEBUG.

// repeatAfter is how long a webhook's failures stay at DEBUG after one was logged at a
// higher level: the next such line says how many it stands for.
const repeatAfter = time.Minute

// FilterErrors are the events that a webhook's filter could not judge, and that
// were not sent for it, since the process began or the filter was changed.
type FilterErrors struct {
	Count int64
	Last  string // why, of the last
	At    time.Time
}
