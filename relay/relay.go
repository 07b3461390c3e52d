// Package relay delivers events from a queue to the webhooks that want them. It signs
// them, retries on a ladder, and sends to each webhook at that webhook's own pace.
//
// It promises that one slow or dead receiver delays nobody else, that no rung of a
// ladder is early, that a stored event is sent with the same bytes at every attempt,
// and that an attempt which a stop cuts off does not count. The queue is responsible
// for durability. The package does not know HTTP servers, Caddy or metrics libraries.
//
// Accept picks the webhooks of an event and enqueues it. Each webhook's goroutine takes
// due deliveries from its lane, as many as its window and its breaker allow. A worker
// makes the attempt and settles the lease.
package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/body"
	"github.com/userhero/relay/relay/deliver"
	"github.com/userhero/relay/relay/feed"
	"github.com/userhero/relay/relay/notify"
	"github.com/userhero/relay/relay/redact"
)

// Options are the dependencies and settings of a relay.
type Options struct {
	// Queue holds the events. The caller closes it after Stop.
	Queue queue.Queue
	// Logger gets what an operator should act on or know. Default: no log.
	Logger *slog.Logger
	// Version is sent as User-Agent: UserHero-Relay/<version>.
	Version string
	// Observer receives what happens, for metrics. Default: none.
	Observer Observer
	// Dial, if not nil, replaces the guarded dialer for connections to receivers.
	// Simulations set it: their network is in memory.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Own, if not nil, reports whether an address could be used to stop the process,
	// such as Caddy's admin endpoint. Nothing is sent there, even if egress allows it.
	Own func(netip.AddrPort) bool
	// Tracer creates the spans. If it is nil, there are none, and receivers get a
	// traceparent that continues the request's trace or begins a new one.
	Tracer trace.Tracer

	// client replaces the HTTP client in tests.
	client *deliver.Client
}

// Observer receives what happens, for metrics. Any goroutine may call its methods; they
// must not block.
type Observer interface {
	// Accepted: an event of this type is on disk. project is one that the configuration
	// names, OtherProjects or NoProject.
	Accepted(eventType, project string)
	// Attempted: an attempt ended. The outcome is "ok" or the error class, and span is
	// the attempt's span.
	Attempted(webhook, outcome string, took time.Duration, span queue.TraceContext)
	// Delivered: an event reached its webhook. endToEnd is the time since its
	// acceptance, and creation is the span of the acceptance.
	Delivered(webhook string, endToEnd time.Duration, creation queue.TraceContext)
	// StateChanged: a webhook's state changed.
	StateChanged(webhook, from, to string)
	// FilterFailed: the webhook's filter could not judge an event, so the event is not
	// sent.
	FilterFailed(webhook string)
	// Deleted: the webhook was deleted. No further call names it.
	Deleted(webhook string)
	// Mailed: a notice of this kind was tried. The outcome is "ok", "retry" or
	// "failed".
	Mailed(kind, outcome string)
}

// nobody is the default observer. It does nothing.
type nobody struct{}

func (nobody) Accepted(string, string) {}

func (nobody) Attempted(string, string, time.Duration, queue.TraceContext) {}

func (nobody) Delivered(string, time.Duration, queue.TraceContext) {}

func (nobody) StateChanged(string, string, string) {}

func (nobody) FilterFailed(string) {}

func (nobody) Deleted(string) {}

func (nobody) Mailed(string, string) {}

// New makes a relay. Nothing runs before Start.
func New(o Options) *Relay {
	r := &Relay{
		queue: o.Queue, log: o.Logger, observer: o.Observer, tracer: o.Tracer, client: o.client, dial: o.Dial, own: o.Own,
		agent:     "UserHero-Relay/" + o.Version,
		webhooks:  make(map[string]*webhook),
		tallyLock: make(slowLock, 1),
		attachMu:  make(slowLock, 1),
		byID:      make(map[queue.WebhookID]*webhook),
		turns:     body.NewTurns(),
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
	if r.shared = r.queue != nil && r.queue.Node() != ""; r.shared {
		r.feed.Tell = func(h feed.Happening) { r.tell(said{Happened: &h}) }
	}
	r.lanes, r.stopLanes = context.WithCancel(context.Background())
	attempts, cancel := context.WithCancelCause(context.Background())
	r.attempts, r.cancelAttempts = attempts, func() { cancel(errStopping) }
	r.notices = notify.New(notify.Options{
		Queue: r.queue, Logger: r.log, Lanes: r.lanes, Attempts: r.attempts,
		Overtaken: r.hasNewerNotice, Name: r.nameOf, Sent: r.noticeSent,
	})
	return r
}

// Start reads the webhooks from the store. Deliveries begin when settings are attached;
// until then they wait.
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
			// The tally is only for display, so an error in it does not stop the start.
			if err := r.tally.Decode(s.Data); err != nil {
				r.log.Warn("the tally of the last hours begins anew", "error", err)
			}
			r.tallyStored = s
			continue
		}
		rec, err := decodeRecord(s)
		if err != nil {
			return err
		}
		r.addLocked(newWebhook(r, s, rec))
	}
	r.started = true
	if r.shared {
		r.following.Go(r.follow)
		r.following.Go(r.hear)
		r.following.Go(r.talk)
	}
	for _, w := range r.webhooks {
		r.running.Go(func() { w.run(w.lifetime) })
	}
	r.running.Go(r.keepTallies)
	return nil
}

// webhookOf returns the webhook that a notice is about; nil if it was deleted.
func (r *Relay) webhookOf(n notify.Notice) *webhook {
	if n.ID != 0 {
		return r.withID(n.ID)
	}
	w, err := r.find(n.Webhook)
	if err != nil {
		return nil
	}
	return w
}

// nameOf returns the present name of the webhook that a notice is about. It returns false if
// the webhook was deleted, or has other projects than it had: then its name may be another
// owner's.
func (r *Relay) nameOf(n notify.Notice) (name string, same bool) {
	w := r.webhookOf(n)
	if w == nil || n.ID != 0 && !slices.Equal(w.projects(), n.Projects) {
		return "", false
	}
	return w.name(), true
}

// hasNewerNotice reports whether a later change of the webhook's state has its own
// notice.
func (r *Relay) hasNewerNotice(n notify.Notice) bool {
	w := r.webhookOf(n)
	if w == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.record.LastNotice.At.After(n.At)
}

// noticeSent records the result of sending a notice. The entry of the activity log belongs
// to the projects that the webhook had, not to those of a new webhook with its name.
func (r *Relay) noticeSent(n notify.Notice, outcome string, err error) {
	r.observer.Mailed(n.Kind, outcome)
	detail := n.Kind
	if err != nil {
		detail += ": " + outcome + ": " + redact.Error(err)
	}
	r.Note(Activity{What: "notice sent", Who: "relay", Webhook: n.Webhook, Detail: detail, Projects: append([]string{}, n.Projects...)})
}

// Drain stops taking deliveries and returns at once. Attempts in flight continue. When
// ctx ends, the remaining ones are cancelled and not counted. Events are still
// accepted. Stop waits for the attempts.
func (r *Relay) Drain(ctx context.Context) {
	r.stopLanes()
	context.AfterFunc(ctx, r.cancelAttempts)
}

// Stop ends the relay. It lets attempts in flight end until ctx ends, then cancels the
// rest without counting them. It may be called twice, and before Start.
func (r *Relay) Stop(ctx context.Context) error {
	r.stopLanes()
	r.following.Wait()
	r.attachMu.Lock()
	defer r.attachMu.Unlock()
	r.mu.Lock()
	ran := r.started && !r.stopped
	r.stopped = true
	r.mu.Unlock()
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
	var saving sync.WaitGroup // together: a store that does not answer holds each up
	for _, w := range r.all() {
		saving.Go(w.saveRecord)
	}
	if ran {
		saving.Go(r.saveTally)
	}
	saving.Wait()
	if ran {
		r.log.Info("deliveries have stopped", "attempts_ended", r.ended.Load(), "attempts_put_back", r.putBack.Load())
	}
	return err
}

// Go runs do in a goroutine that Stop waits for. do must return soon after a subscription
// is done. Go reports false, and does nothing, if the relay does not run.
func (r *Relay) Go(do func()) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	runs := r.started && !r.stopped
	if runs {
		r.running.Go(do)
	}
	return runs
}

// Health returns nil while the queue takes events and the webhooks' goroutines run.
func (r *Relay) Health() error { return r.HealthOf(func(WebhookStatus) bool { return true }) }

// HealthOf returns the health for a user who sees only some webhooks. The errors of other
// webhooks do not count.
func (r *Relay) HealthOf(seen func(WebhookStatus) bool) error {
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
		if err := w.laneError(); err != nil && seen(w.status(queue.Counts{})) {
			return err
		}
	}
	return nil
}
