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

// aim is the target in force; nil where the webhook is parked.
func (w *webhook) aim() *target {
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

// ailment is a time in which a webhook has failed every attempt. Before its
// first ladder has run out, the owner may want a warning.
type ailment struct {
	since time.Time // of the first failed attempt; zero: the last one succeeded
	alarm *time.Timer
}

// seldom lets one of many like lines out in a while. Its owner serialises the
// calls.
type seldom struct {
	until  time.Time // quiet till then
	silent int       // left out since the last
}

// allows tells whether this one is told, and how many were not since the last.
func (s *seldom) allows(now time.Time) (others int, ok bool) {
	if now.Before(s.until) {
		s.silent++
		return 0, false
	}
	others, s.silent, s.until = s.silent, 0, now.Add(repeatAfter)
	return others, true
}

// Levels are chosen so that at 1,000 events a second the log still reads as a
// story: ERROR is what somebody must repair, WARN what somebody should know of
// today, INFO what changed. What happens to each delivery is DEBUG.

// repeatAfter is how long a webhook's failures stay at DEBUG after one was told:
// the next line says how many it stands for.
const repeatAfter = time.Minute

// FilterErrors are the events that a webhook's filter could not judge, and that
// were not sent for it, since the process began or the filter was changed.
type FilterErrors struct {
	Count int64
	Last  string // why, of the last
	At    time.Time
}
