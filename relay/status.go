package relay

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/deliver"
	"github.com/userhero/relay/relay/signature"
)

// WebhookStatus holds a webhook's configuration and its present state.
type WebhookStatus struct {
	ID          queue.WebhookID
	Name        string
	Scope       string // in which the webhook was added; empty for none
	URL         string
	Projects    []string     // empty means all
	Events      []event.Type // empty means all
	Filter      string
	Body        string   // empty: the event's document is sent
	Notify      []string // addresses of its owners
	Retry       []time.Duration
	Timeout     time.Duration
	Concurrency int
	Rate        Rate
	Ordered     bool
	Headers     []string // names of the configured headers
	HasSecret   bool
	PublicKeys  []signature.JWK // of the keys that sign, the present one first
	// PreviousUntil is when the previous secret stops signing. It is zero if there is
	// no previous secret or no end is set.
	PreviousUntil time.Time
	// PreviousSigningUntil is the same for the previous signing key.
	PreviousSigningUntil time.Time
	TLS                  deliver.TLSStatus
	Source               string // FromCaddyfile or FromAPI
	State                string // Active, Failing or Disabled
	// Parked means that the webhook has left the configuration. Its deliveries are held
	// until it returns or they expire.
	Parked bool
	// Difference describes how the configuration file of another relay on the store
	// differs. It is empty if there is no other relay or no difference.
	Difference   string
	FailingSince time.Time
	// DisabledSince is when the webhook was disabled. It is zero if it is not, or if the
	// configuration file disables it.
	DisabledSince time.Time
	Reason        string // why the webhook is failing or disabled
	FilterErrors  FilterErrors
	LastSuccess   time.Time
	LastAttempt   time.Time
	LastAnswer    Answer // to the last attempt; zero before the first attempt
	// Probing means that the breaker is open: one delivery at a time goes out, to check
	// whether the receiver works again.
	Probing bool
	// NextProbe is the earliest time of the next probe. It is zero if the breaker is
	// closed or a probe is in flight.
	NextProbe time.Time
	// HeldUntil is the end of a hold that the receiver asked for with Retry-After. It
	// is zero if there is none.
	HeldUntil time.Time
	// Throttled is why due deliveries wait on purpose; empty if they need not wait.
	Throttled Throttle
	Counts    Counts
}

// Throttle is a reason why due deliveries of a webhook wait.
type Throttle string

// The reasons.
const (
	ThrottledByRetryAfter Throttle = "retry_after" // the receiver asked for a pause
	ThrottledByProbe      Throttle = "probe"       // one delivery at a time tries the receiver
	ThrottledByRate       Throttle = "rate"        // the webhook's rate is used up
)

// Throttles returns all reasons.
func Throttles() []Throttle {
	return []Throttle{ThrottledByRetryAfter, ThrottledByProbe, ThrottledByRate}
}

// throttledLocked returns why due deliveries wait now.
func (w *webhook) throttledLocked(now time.Time) Throttle {
	switch {
	case !w.enabledLocked():
		return ""
	case now.Before(w.breaker.HeldUntil()):
		return ThrottledByRetryAfter
	case w.breaker.OneAtATime():
		return ThrottledByProbe
	case w.limiter != nil && w.limiter.TokensAt(now) < 1:
		return ThrottledByRate
	}
	return ""
}

// Counts holds the number of deliveries in each state that people see.
type Counts struct {
	Pending   int64 `json:"pending"`
	Retrying  int64 `json:"retrying"`
	Held      int64 `json:"held"`
	Failed    int64 `json:"failed"`
	Delivered int64 `json:"delivered"`
}

// Add returns the sum.
func (c Counts) Add(d Counts) Counts {
	return Counts{c.Pending + d.Pending, c.Retrying + d.Retrying, c.Held + d.Held, c.Failed + d.Failed, c.Delivered + d.Delivered}
}

// Waiting returns how many deliveries still have attempts to come.
func (c Counts) Waiting() int64 { return c.Pending + c.Retrying + c.Held }

func (w *webhook) status(c queue.Counts) WebhookStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := WebhookStatus{
		ID: w.id, Name: w.name(), Source: w.record.Source, State: w.stateLocked(), Parked: w.target == nil,
		FailingSince: w.record.FailingSince, DisabledSince: w.record.DisabledSince, Reason: w.record.Reason,
		FilterErrors: w.filterErrors, Difference: w.difference,
		LastSuccess: w.record.LastSuccess, LastAttempt: w.record.LastAttempt, LastAnswer: w.record.LastAnswer,
		Counts: Counts{Pending: c.Pending, Retrying: c.Retrying, Failed: c.Failed, Delivered: c.Delivered},
	}
	if s.Probing = w.breaker.Open() && w.enabledLocked(); s.Probing {
		s.NextProbe = w.breaker.NextProbe()
	}
	now := time.Now()
	if now.Before(w.breaker.HeldUntil()) {
		s.HeldUntil = w.breaker.HeldUntil()
	}
	s.Throttled = w.throttledLocked(now)
	if !w.enabledLocked() {
		s.Counts.Held, s.Counts.Pending, s.Counts.Retrying = c.Waiting(), 0, 0
	}
	if t := w.target; t != nil {
		s.Scope = t.config.Scope
		s.URL, s.Projects, s.Events = t.config.URL, t.config.Projects, t.config.Events
		s.Filter, s.Body, s.Notify = t.config.Filter, t.config.Body, t.config.Notify
		s.Retry, s.Timeout, s.Concurrency = t.config.Retry, t.config.Timeout, t.config.Concurrency
		s.Headers = slices.Sorted(maps.Keys(t.config.Header))
		s.Rate, s.Ordered, s.HasSecret, s.TLS = t.config.Rate, t.config.Ordered, t.config.Secret != "", t.TLS()
		if s.PublicKeys = t.PublicKeys(now); len(s.PublicKeys) > 1 {
			s.PreviousSigningUntil = t.config.PreviousSigningUntil
		}
		if t.Rotating(now) {
			s.PreviousUntil = t.config.PreviousUntil
		}
	}
	return s
}

// Webhooks returns every webhook, sorted by name, parked ones included.
func (r *Relay) Webhooks() []WebhookStatus {
	stats := r.queue.Stats(context.Background())
	all := r.all()
	list := make([]WebhookStatus, len(all))
	for i, w := range all {
		list[i] = w.status(stats.Webhooks[w.id].Counts)
	}
	return list
}

// Webhook returns one webhook.
func (r *Relay) Webhook(name string) (WebhookStatus, bool) {
	r.mu.RLock()
	w, ok := r.webhooks[name]
	r.mu.RUnlock()
	if !ok {
		return WebhookStatus{}, false
	}
	return w.status(r.queue.Stats(context.Background()).Webhooks[w.id].Counts), true
}

// Stats returns the queue's counters without the relay's own records. Notices are not
// events that users know of.
func (r *Relay) Stats() queue.Stats {
	stats := r.queue.Stats(context.Background())
	r.mu.RLock()
	defer r.mu.RUnlock()
	for id, s := range stats.Webhooks {
		if r.byID[id] == nil {
			// Each of the relay's own events has one delivery, to a record of its own.
			stats.Events -= s.Waiting() + s.Delivered + s.Failed
			delete(stats.Webhooks, id)
		}
	}
	return stats
}

// OldestDueAge returns how long the oldest due delivery has waited for its attempt, or
// 0 if nothing is due. stats are the queue's counters. A notice counts only after its
// grouping time has passed.
func (r *Relay) OldestDueAge(stats queue.Stats) time.Duration {
	oldest := time.Duration(0)
	for id, s := range stats.Webhooks {
		oldest = max(oldest, r.DueAge(id, s))
	}
	return oldest
}

// DueAge returns what OldestDueAge returns, for one webhook or for one notifier's notices.
// stats holds its counters.
func (r *Relay) DueAge(id queue.WebhookID, stats queue.WebhookStats) time.Duration {
	if stats.OldestDue.IsZero() {
		return 0
	}
	return max(0, time.Since(stats.OldestDue)-r.notices.MayWait(id))
}

// LastBackup returns when the newest verified backup of the store was made: one that was
// read back and is complete. It is zero if there is none, or if the queue does not know.
func (r *Relay) LastBackup() time.Time {
	if q, ok := r.queue.(queue.BackedUp); ok {
		return q.LastBackup()
	}
	return time.Time{}
}

// DeliveryState returns the state that people see. It is "held" if the delivery waits
// and its webhook is disabled or parked.
func (r *Relay) DeliveryState(d queue.Delivery) string {
	r.mu.RLock()
	w := r.byID[d.ID.Webhook]
	r.mu.RUnlock()
	if d.State.Waiting() && w != nil && !w.enabled() {
		return "held"
	}
	return d.State.String()
}
