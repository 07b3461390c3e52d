package relay

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/time/rate"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/expression"
	"github.com/userhero/relay/relay/pace"
	"github.com/userhero/relay/relay/tally"
)

// webhook is one webhook at run time. Its goroutine, run, takes deliveries from the
// lane and hands them to workers, which make the attempts. See Relay for the lock
// order.
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
	named atomic.Pointer[naming]
	// changed wakes run when the settings, the state or the number of free places
	// changed.
	changed chan struct{}
	lifetime

	// storeLock serialises writes of the webhook's record.
	storeLock slowLock
	stored    queue.Webhook // as it was read or written last; guarded by storeLock
	attempted []byte        // the data of a write whose outcome is unknown; guarded by storeLock
	parked    bool          // as stored; guarded by storeLock

	mu        sync.Mutex // guards everything below
	record    record
	target    *target // nil: parked
	limiter   *rate.Limiter
	breaker   pace.Breaker
	window    pace.Window
	outage    outage
	underWay  int
	listening context.Context    // context of the lane's Next calls; nil before the first call
	interrupt context.CancelFunc // ends listening
	failure   error              // why the lane cannot be read
	tally     tally.Webhook
	lane      queue.Lane   // nil if none is open
	owned     bool         // whether this relay owned the lane when it was asked last
	elsewhere []tally.Slot // what the lane's owner has counted, if that is another relay
	// difference says how another relay's configuration file differs; empty if it does
	// not.
	difference string
	// filterErrors counts the errors of the filter in force.
	filterErrors FilterErrors

	warnedAttempt, warnedDelivery, warnedStore, warnedFilter logLimit // limits for repeated log lines
}

func newWebhook(r *Relay, s queue.Webhook, rec record) *webhook {
	w := &webhook{
		relay: r, id: s.ID, stored: s, parked: s.Expires, record: rec,
		changed:   make(chan struct{}, 1),
		lifetime:  r.newLifetime(),
		storeLock: make(slowLock, 1),
	}
	w.named.Store(newNaming(s.Name))
	w.tally.Restore(rec.Stored)
	if now := time.Now(); now.Before(rec.HeldUntil) {
		w.breaker.HoldOff(now, rec.HeldUntil.Sub(now))
	}
	if rec.State == Failing {
		w.tripLocked()
	}
	return w
}

// tripLocked opens the breaker because the record says that the webhook is failing.
func (w *webhook) tripLocked() {
	// If the clock was set back since, the next probe must not be delayed.
	last := w.record.LastAttempt
	if now := time.Now(); now.Before(last) {
		last = now
	}
	w.breaker.TripAfter(last, w.ladderLocked())
}

// naming is a webhook's name and what is made of it. Renaming a webhook replaces it.
type naming struct {
	name string
	// described holds the attributes that the spans of all attempts share.
	described []attribute.KeyValue
}

func newNaming(name string) *naming {
	return &naming{name: name, described: describeProcess(name)}
}

// name returns the webhook's present name.
func (w *webhook) name() string { return w.named.Load().name }

// lifetime belongs to the webhook's goroutine, run. Deleting a webhook ends it. If the
// deletion fails, a new one starts.
type lifetime struct {
	lanes    context.Context // ends run
	attempts context.Context // cancels attempts in flight, which are not counted
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

// currentTarget returns the target in force, or nil if the webhook is parked.
func (w *webhook) currentTarget() *target {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.target
}

// stateLocked returns the state that people see: Disabled if the configuration disables
// the webhook, otherwise the stored state.
func (w *webhook) stateLocked() string {
	if w.target != nil && w.target.config.Disabled {
		return Disabled
	}
	return w.record.State
}

// enabledLocked reports whether deliveries may go out.
func (w *webhook) enabledLocked() bool { return w.target != nil && w.stateLocked() != Disabled }

func (w *webhook) enabled() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.enabledLocked()
}

// apiConfig returns the configuration of a webhook that was added through the API,
// otherwise nil.
func (w *webhook) apiConfig() *WebhookConfig {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.record.Config
}

// wants reports whether the webhook gets an event of this type about this feedback. The error
// says why the filter could not judge the event.
func (w *webhook) wants(t event.Type, f queue.FeedbackID, doc *expression.Document) (bool, error) {
	target := w.currentTarget()
	if target == nil || t.Operational() { // those are for subscribers, see Relay.subscribers
		return false, nil
	}
	if events := target.config.Events; len(events) > 0 && !slices.Contains(events, t) {
		return false, nil
	}
	if !target.config.takes(f) {
		return false, nil
	}
	return target.judge(doc)
}

// takes reports whether the webhook gets the events of this feedback, by its project.
// What waits for a parked webhook stays its own.
func (w *webhook) takes(f queue.FeedbackID) bool {
	target := w.currentTarget()
	return target == nil || target.config.takes(f)
}

// projects returns the projects that the webhook names; nil for none or if it is parked.
func (w *webhook) projects() []string {
	if target := w.currentTarget(); target != nil {
		return target.config.Projects
	}
	return nil
}

// filterFailed counts an event that the webhook's filter could not judge.
func (w *webhook) filterFailed(err error) {
	now := time.Now()
	w.mu.Lock()
	w.filterErrors.Count++
	w.filterErrors.Last, w.filterErrors.At = err.Error(), now
	others, tell := w.warnedFilter.allow(now)
	w.mu.Unlock()
	w.relay.observer.FilterFailed(w.name())
	if tell {
		w.relay.log.Warn("a filter could not judge an event, which is not sent; correct the filter, then redeliver what the webhook missed",
			"webhook", w.name(), "error", err, "others", others)
	}
}

// laneError returns why the webhook's lane cannot be read, or nil if it can.
func (w *webhook) laneError() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failure != nil {
		return fmt.Errorf("webhook %s gets nothing: %w", w.name(), w.failure)
	}
	return nil
}

// wake makes run check its state again. If interrupting is set, it also ends a wait for
// the lane.
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

// outage is a period in which every attempt of a webhook failed. The owner may want a
// warning before the first ladder has run out.
type outage struct {
	since   time.Time // start of the first failed attempt; zero if the last attempt succeeded
	warning *time.Timer
}

// logLimit allows one of many similar log lines per minute. The caller serialises the
// calls.
type logLimit struct {
	until      time.Time // no line is logged before this time
	suppressed int       // lines since the last one logged
}

// allow reports whether to log this line, and how many lines were suppressed since the
// last one.
func (s *logLimit) allow(now time.Time) (others int, ok bool) {
	if now.Before(s.until) {
		s.suppressed++
		return 0, false
	}
	others, s.suppressed, s.until = s.suppressed, 0, now.Add(repeatAfter)
	return others, true
}

// Log levels are chosen so that the log stays readable at 1,000 events a second. ERROR
// is something to repair, WARN is something to know today, and INFO is a change. Single
// deliveries are logged at DEBUG.

// repeatAfter is how long a webhook's failures are logged at DEBUG after one was logged
// at a higher level. The next line at the higher level reports how many were
// suppressed.
const repeatAfter = time.Minute

// FilterErrors counts the events that a webhook's filter could not judge and that were
// therefore not sent to it. It counts from the start of the process or the last change
// of the filter.
type FilterErrors struct {
	Count int64
	Last  string // the last error
	At    time.Time
}
