// Package relay takes events from a queue to the webhooks that want them:
// signed, retried on a ladder, each webhook at its own pace.
//
// It promises that one slow or dead receiver delays nobody else, that no rung
// of a ladder is early, that a stored event is sent with the same bytes at every
// attempt, and that stopping counts no attempt that did not end by itself. What
// is durable is the queue's; the package knows no HTTP server, no Caddy and no
// metrics library.
//
// An event's way: Accept picks the webhooks and enqueues; each webhook's own
// goroutine takes due deliveries from its lane, as many as its window and its
// breaker let out; a worker makes the attempt and settles the lease.
package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/deliver"
	"github.com/userhero/relay/relay/notify"
	"github.com/userhero/relay/relay/redact"
)

// Options are what a relay works with.
type Options struct {
	// Queue is where events are; the caller closes it, after Stop.
	Queue queue.Queue
	// Logger gets one line per thing an operator would act on. Default: none.
	Logger *slog.Logger
	// Version is sent as User-Agent: UserHero-Relay/<version>.
	Version string
	// Observer is told what happens. Default: nobody.
	Observer Observer
	// Dial, unless nil, is the network: receivers are dialled with it and not
	// with the guarded dialer. It is for simulations, whose network is in memory.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Own, unless nil, reports whether an address is one that could stop the process,
	// such as Caddy's admin endpoint. Nothing is sent there, whatever is allowed.
	Own func(netip.AddrPort) bool
	// Tracer makes the spans. Nil makes none; receivers then get a traceparent
	// that continues the request's trace, or begins one.
	Tracer trace.Tracer

	// client replaces the way to receivers, in tests.
	client *deliver.Client
}

// Relay is the engine above one queue. All methods may be called from any
// goroutine.
type Relay struct {
	queue    queue.Queue
	log      *slog.Logger
	observer Observer
	tracer   trace.Tracer // nil: no spans
	// producing is what the spans of acceptances start with.
	producing []trace.SpanStartOption
	agent     string
	client    *deliver.Client // nil: each generation's own
	dial      func(ctx context.Context, network, address string) (net.Conn, error)
	own       func(netip.AddrPort) bool
	feed      feed
	notices   *notify.Sender

	// lanes ends the webhooks' goroutines, attempts what they have under way.
	lanes, attempts           context.Context
	stopLanes, cancelAttempts context.CancelFunc
	// Of the attempts in flight when the stop began: those that ended, and those
	// that were cut off and put back.
	ended, putBack   atomic.Int64
	running          sync.WaitGroup // webhooks' goroutines
	attachMu         sync.Mutex     // serialises Attach, Detach, Start and Stop
	mu               sync.RWMutex   // guards everything below
	started, stopped bool
	webhooks         map[string]*webhook // by name
	byID             map[queue.WebhookID]*webhook
	generations      []*Generation // attached, oldest first
	current          *Generation   // the one that was applied last

	tally       wholeTally
	tallyStored queue.Webhook // its record; see saveTally
}

// errStopping is the cause of attempts that a stop cuts off.
var errStopping = errors.New("the relay is stopping")

// errDeleted is the cause of attempts that the deletion of their webhook cuts
// off.
var errDeleted = errors.New("the webhook is being deleted")

// New makes a relay; nothing runs before Start.
func New(o Options) *Relay {
	r := &Relay{
		queue: o.Queue, log: o.Logger, observer: o.Observer, tracer: o.Tracer, client: o.client, dial: o.Dial, own: o.Own,
		agent:     "UserHero-Relay/" + o.Version,
		producing: startOptions(producer, sendOperation),
		webhooks:  make(map[string]*webhook),
		byID:      make(map[queue.WebhookID]*webhook),
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.observer == nil {
		r.observer = nobody{}
	}
	if o.Version == "" {
		r.agent = "UserHero-Relay/dev"
	}
	r.lanes, r.stopLanes = context.WithCancel(context.Background())
	attempts, cancel := context.WithCancelCause(context.Background())
	r.attempts, r.cancelAttempts = attempts, func() { cancel(errStopping) }
	r.notices = notify.New(notify.Options{
		Queue: r.queue, Logger: r.log, Lanes: r.lanes, Attempts: r.attempts,
		Overtaken: r.hasNewerNotice, Sent: r.noticeSent,
	})
	return r
}

// Start reads the webhooks the store knows and begins to deliver as soon as
// settings are attached. Until then everything waits.
func (r *Relay) Start(ctx context.Context) error {
	r.attachMu.Lock()
	defer r.attachMu.Unlock()
	stored, err := r.queue.Webhooks(ctx)
	if err != nil {
		return fmt.Errorf("reading the webhooks: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.started {
		return nil
	}
	for _, s := range stored {
		switch {
		case notify.IsMailbox(s.Name):
			continue
		case s.Name == tallyRecord:
			// What is only looked at keeps nothing from starting.
			if err := r.tally.decode(s.Data); err != nil {
				r.log.Warn("the tally of the last hours begins anew", "error", err)
			}
			r.tallyStored = s
			continue
		}
		rec, err := decodeRecord(s)
		if err != nil {
			return err
		}
		r.adopt(newWebhook(r, s, rec))
	}
	r.started = true
	for _, w := range r.webhooks {
		r.running.Go(func() { w.run(w.life) })
	}
	r.running.Go(r.keepTallies)
	return nil
}

// adopt takes a webhook in; r.mu is held.
func (r *Relay) adopt(w *webhook) {
	r.webhooks[w.name] = w
	r.byID[w.id] = w
}

// forget takes out a webhook that the store does not have any more.
func (r *Relay) forget(w *webhook) {
	r.mu.Lock()
	known := r.webhooks[w.name] == w
	if known {
		delete(r.webhooks, w.name)
		delete(r.byID, w.id)
	}
	r.mu.Unlock()
	if known {
		r.observer.Deleted(w.name)
	}
}

// hasNewerNotice reports whether a later change of the webhook has a notice of its
// own.
func (r *Relay) hasNewerNotice(n notify.Notice) bool {
	w, err := r.find(n.Webhook)
	if err != nil {
		return false // it was deleted or renamed
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.record.Told.At.After(n.At)
}

// noticeSent tells what became of a notice.
func (r *Relay) noticeSent(n notify.Notice, outcome string, err error) {
	r.observer.Mailed(n.Kind, outcome)
	detail := n.Kind
	if err != nil {
		detail += ": " + outcome + ": " + redact.Error(err)
	}
	r.note(activity{What: "notice sent", Who: "relay", Webhook: n.Webhook, Detail: detail})
}

// Drain takes no more deliveries, and returns at once. Attempts in flight go on;
// when the context ends the rest is cut off, and is not counted. Events are still
// accepted. Stop waits for the attempts.
func (r *Relay) Drain(ctx context.Context) {
	r.stopLanes()
	context.AfterFunc(ctx, r.cancelAttempts)
}

// Stop takes no more work, lets attempts under way end while the context
// lasts, and cuts off the rest without counting them. It tolerates being called
// twice and before Start.
func (r *Relay) Stop(ctx context.Context) error {
	r.attachMu.Lock()
	defer r.attachMu.Unlock()
	r.mu.Lock()
	ran := r.started && !r.stopped
	r.stopped = true
	r.mu.Unlock()
	r.stopLanes()
	ended := make(chan struct{})
	go func() {
		r.running.Wait()
		r.notices.Wait()
		close(ended)
	}()
	var err error
	select {
	case <-ended:
	case <-ctx.Done():
		err = context.Cause(ctx)
		r.cancelAttempts()
		<-ended
	}
	r.cancelAttempts()
	for _, w := range r.all() {
		w.save()
	}
	if ran {
		r.saveTally()
		r.log.Info("deliveries have stopped", "attempts_ended", r.ended.Load(), "attempts_put_back", r.putBack.Load())
	}
	return err
}

// all returns the webhooks, by name.
func (r *Relay) all() []*webhook {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.SortedFunc(maps.Values(r.webhooks), func(a, b *webhook) int { return strings.Compare(a.name, b.name) })
}

// Queue is the queue the relay works on.
func (r *Relay) Queue() queue.Queue { return r.queue }

// Health is nil while the queue takes events and the webhooks' goroutines run.
func (r *Relay) Health() error {
	r.mu.RLock()
	started, stopped := r.started, r.stopped
	r.mu.RUnlock()
	switch {
	case !started:
		return errors.New("the relay has not started")
	case stopped:
		return errors.New("the relay has stopped")
	case r.lanes.Err() != nil:
		return errStopping
	}
	if err := r.queue.Health(); err != nil {
		return err
	}
	for _, w := range r.all() {
		if err := w.trouble(); err != nil {
			return err
		}
	}
	return nil
}

// WebhookStatus is how a webhook is configured and how it fares.
type WebhookStatus struct {
	ID          queue.WebhookID
	Name        string
	URL         string
	Events      []event.Type // empty: all
	Filter      string
	Retry       []time.Duration
	Timeout     time.Duration
	Concurrency int
	Rate        Rate
	Ordered     bool
	Headers     []string // the names of the configured ones
	HasSecret   bool
	// PreviousUntil is when the previous secret ceases to sign; zero if there is
	// none, or no such time.
	PreviousUntil time.Time
	TLS           deliver.TLSStatus
	Source        string // FromCaddyfile or FromAPI
	State         string // Active, Failing or Disabled
	// Parked says that the webhook has left the configuration: its deliveries
	// are held until it comes back, or expire.
	Parked       bool
	FailingSince time.Time
	Reason       string // why it is failing or disabled
	FilterErrors FilterErrors
	LastSuccess  time.Time
	LastAttempt  time.Time
	LastAnswer   Answer // to the last attempt; zero before the first
	// Probing says that the breaker is open: one delivery at a time goes out, to try
	// whether the receiver answers.
	Probing bool
	// NextProbe is the earliest time of the next probe, where the breaker is
	// open; zero where it is closed, or a probe is under way.
	NextProbe time.Time
	// HeldUntil is until when nothing is sent, because the receiver asked for that
	// with Retry-After; zero if it did not.
	HeldUntil time.Time
	Counts    Counts
}

// FilterErrors are the events that a webhook's filter could not judge, and that
// were not sent for it, since the process began or the filter was changed.
type FilterErrors struct {
	Count int64
	Last  string // why, of the last
	At    time.Time
}

// Counts are deliveries by the state people see.
type Counts struct{ Pending, Retrying, Held, Failed, Delivered int64 }

// Webhooks returns every webhook, by name, parked ones included.
func (r *Relay) Webhooks() []WebhookStatus {
	stats := r.queue.Stats()
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
	return w.status(r.queue.Stats().Webhooks[w.id].Counts), true
}

// Stats are the queue's counters without what the relay keeps for itself: mails
// that wait or were sent are no events that people know of.
func (r *Relay) Stats() queue.Stats {
	stats := r.queue.Stats()
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

// OldestDueAge is how long the oldest due delivery has been waiting for its
// attempt, out of the queue's counters; 0 where nothing is due. Notices count
// once they should have been grouped and sent.
func (r *Relay) OldestDueAge(stats queue.Stats) time.Duration {
	oldest := time.Duration(0)
	for id, s := range stats.Webhooks {
		if s.OldestDue.IsZero() {
			continue
		}
		oldest = max(oldest, time.Since(s.OldestDue)-r.notices.MayWait(id))
	}
	return oldest
}

// DeliveryState is the state people see: "held" for what waits while its
// webhook takes nothing.
func (r *Relay) DeliveryState(d queue.Delivery) string {
	r.mu.RLock()
	w := r.byID[d.ID.Webhook]
	r.mu.RUnlock()
	if d.State.Waiting() && w != nil && !w.takes() {
		return "held"
	}
	return d.State.String()
}
