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
	"net"
	"net/netip"

	"go.opentelemetry.io/otel/trace"

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
	// Observer hears what happens. Default: nobody.
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
		r.addLocked(newWebhook(r, s, rec))
	}
	r.started = true
	for _, w := range r.webhooks {
		r.running.Go(func() { w.run(w.lifetime) })
	}
	r.running.Go(r.keepTallies)
	return nil
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
	return w.record.LastNotice.At.After(n.At)
}

// noticeSent records what became of a notice.
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
		w.saveRecord()
	}
	if ran {
		r.saveTally()
		r.log.Info("deliveries have stopped", "attempts_ended", r.ended.Load(), "attempts_put_back", r.putBack.Load())
	}
	return err
}

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
		if err := w.laneError(); err != nil {
			return err
		}
	}
	return nil
}
