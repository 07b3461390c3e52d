package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.opentelemetry.io/otel/trace"

	"github.com/userhero/relay/caddymodule/telemetry"
	"github.com/userhero/relay/caddymodule/version"
	"github.com/userhero/relay/console"
	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/intake"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
)

// Bounds of an engine's end.
const (
	// answerGrace is how long requests that were cut off have to answer.
	answerGrace = 2 * time.Second
	// closeGrace is how long the store has to close.
	closeGrace = 20 * time.Second
)

// engine is one store and the relay that works on it. It belongs to no single
// configuration: those that name the same store share it, so a reload finds
// everything running.
//
//	           acquire          attach, accept        last release
//	(nothing) ────────► unopened ───────────► open ─────────────► closed
//	                        └──────────────────────────────────────▲
//	                        │ opening failed ► failed ─────────────┘
type engine struct {
	owner    engineOwner
	key      string
	opener   QueueOpener
	options  QueueOptions
	settings map[string]string
	metrics  *telemetry.Metrics
	observer observer // metrics, and who is told of changes of state
	log      *switchLogger

	// config is the configuration that was attached last.
	config atomic.Pointer[caddy.Context]

	opening sync.Once
	users   sync.WaitGroup // of the relay; added to only while not closed
	before  *engine        // had the store and is ending; nil: none
	ended   chan struct{}  // closed when the store is

	// cutoff ends at the deadline of the stop: what is in flight then is cut off.
	cutoff context.Context
	cutOff context.CancelFunc

	limiting sync.Mutex    // guards attached; held before mu
	attached []*attachment // oldest first

	mu      sync.RWMutex // guards everything below; never held while the disk works
	closed  bool
	failure error // why it could not be opened
	queue   queue.Queue
	relay   *relay.Relay
	tracing *telemetry.Tracing // nil: no spans
	api     http.Handler
	console http.Handler
	// The deadline of the stop; zero and nil before it begins.
	deadline time.Time
	timer    *time.Timer
}

// engineOwner is what holds an engine.
type engineOwner interface {
	// endLater calls the engine's end, and does not wait for it.
	endLater(*engine)
	// stateChanged reports a webhook's change of state, under locks of the relay.
	stateChanged(e *engine, webhook, from, to string)
}

// attachment is one configuration's hold on the engine.
type attachment struct {
	generation *relay.Generation
	limits     queue.Limits
	log        *slog.Logger
	once       sync.Once
	err        error
}

// newEngine opens nothing. If the engine before, which has the store, is ending, the
// new one opens the store after that.
func newEngine(owner engineOwner, opener QueueOpener, o QueueOptions, log *slog.Logger, before *engine) *engine {
	e := &engine{
		owner:    owner,
		key:      opener.StoreKey(),
		opener:   opener,
		options:  o,
		settings: opener.StoreSettings(),
		log:      newSwitchLogger(log),
		before:   before,
		ended:    make(chan struct{}),
	}
	e.cutoff, e.cutOff = context.WithCancel(context.Background())
	e.metrics = telemetry.NewMetrics(telemetry.MetricsOptions{
		Relay: e.current, SpansLost: e.lostSpans, MissedReasons: intake.MissedReasons(),
	})
	e.observer = observer{e.metrics, func(webhook, from, to string) { owner.stateChanged(e, webhook, from, to) }}
	e.options.Logger = e.log.logger()
	e.options.OnCommit = e.metrics.Committed
	return e
}

// warnDiffering logs which options of a configuration differ from those that the
// store was opened with: they do not change while it is open.
func (e *engine) warnDiffering(opener QueueOpener, log *slog.Logger) {
	var names []string
	for name, value := range opener.StoreSettings() {
		if e.settings[name] != value {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return
	}
	slices.Sort(names)
	log.Warn("the store stays open with the options it was opened with; restart Caddy to apply the new ones",
		"store", e.key, "options", strings.Join(names, ", "))
}

// open opens the store and starts the relay, once; every caller gets the same
// error. It does not end with the caller: the first may be a request whose
// client goes away.
func (e *engine) open() error {
	e.opening.Do(func() {
		if e.before != nil {
			<-e.before.ended
			e.before = nil
		}
		spans := acquireTracing(e.options.Logger)
		q, r, err := e.build(context.Background(), spans.Tracer())
		e.mu.Lock()
		defer e.mu.Unlock()
		e.tracing = spans
		if err != nil {
			e.failure = fmt.Errorf("opening the store %s: %w", e.key, err)
			return
		}
		e.queue, e.relay = q, r
		options := api.Options{Relay: r, Version: version.String(), Started: time.Now(), Logger: e.options.Logger, Ending: e.ending}
		e.api, e.console = api.New(options), console.New(options)
	})
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.closed {
		return errEngineClosed
	}
	return e.failure
}

// logOpen says what the store came up with.
func (e *engine) logOpen(s queue.Stats, took time.Duration) {
	var waiting int64
	for _, w := range s.Webhooks {
		waiting += w.Waiting()
	}
	e.options.Logger.Info("the store is open", "store", e.key, "events", s.Events, "waiting", waiting, "disk_bytes", s.DiskBytes, "took", took)
}

func (e *engine) build(ctx context.Context, tracer trace.Tracer) (queue.Queue, *relay.Relay, error) {
	began := time.Now()
	q, err := e.opener.OpenQueue(ctx, e.options)
	if err != nil {
		return nil, nil, err
	}
	e.logOpen(q.Stats(), time.Since(began))
	r := relay.New(relay.Options{
		Queue:    q,
		Logger:   e.options.Logger,
		Version:  version.String(),
		Observer: e.observer,
		Tracer:   tracer,
		Own:      func(to netip.AddrPort) bool { return isOwn(to, e.config.Load()) },
	})
	if err := r.Start(ctx); err != nil {
		closing, cancel := context.WithTimeout(ctx, closeGrace)
		defer cancel()
		return nil, nil, errors.Join(fmt.Errorf("starting the relay: %w", err), q.Close(closing))
	}
	return q, r, nil
}

// attach makes the settings those that count, opening the engine where nobody
// has yet.
func (e *engine) attach(c relay.Config, limits queue.Limits, log *slog.Logger) (*attachment, error) {
	if err := e.open(); err != nil {
		return nil, err
	}
	r, err := e.use()
	if err != nil {
		return nil, err
	}
	defer e.users.Done()
	e.log.push(log)
	g, err := r.Attach(c)
	if err != nil {
		e.log.remove(log)
		return nil, fmt.Errorf("applying the webhooks: %w", err)
	}
	a := &attachment{generation: g, limits: limits, log: log}
	e.limit(func() { e.attached = append(e.attached, a) })
	return a, nil
}

// limit changes which configurations are attached, and has the store keep to the
// limits of the newest one that is left.
func (e *engine) limit(change func()) {
	e.limiting.Lock()
	defer e.limiting.Unlock()
	change()
	if len(e.attached) == 0 {
		return
	}
	e.mu.RLock()
	q, ok := e.queue.(queue.Limited)
	e.mu.RUnlock()
	if ok {
		q.SetLimits(e.attached[len(e.attached)-1].limits)
	}
}

// detach takes settings back; detaching twice is fine.
func (e *engine) detach(a *attachment) error {
	a.once.Do(func() {
		a.err = a.generation.Detach()
		e.limit(func() { e.attached = slices.DeleteFunc(e.attached, func(b *attachment) bool { return a == b }) })
		e.log.remove(a.log)
	})
	return a.err
}

// use returns the relay and keeps the engine from closing until the caller
// calls users.Done. Where the engine is closed or was never opened, the error
// wraps queue.ErrClosed.
func (e *engine) use() (*relay.Relay, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	switch {
	case e.closed:
		return nil, errEngineClosed
	case e.failure != nil:
		return nil, e.failure
	case e.relay == nil:
		return nil, fmt.Errorf("the relay has not started: %w", queue.ErrClosed)
	}
	e.users.Add(1)
	return e.relay, nil
}

// current is the relay for a reading of its counters, or nil.
func (e *engine) current() *relay.Relay {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.closed {
		return nil
	}
	return e.relay
}

// lostSpans counts the spans that nobody will see, by reason.
func (e *engine) lostSpans() map[string]int64 {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.tracing.Lost()
}

// ending tells that requests under way should end: Caddy waits for them before
// it stops anything else, and the engine before it stops the relay.
func (e *engine) ending() bool { return caddy.Exiting() || e.current() == nil }

// accept hands a submission to the relay. The header is that of the request.
func (e *engine) accept(ctx context.Context, a relay.Acceptance, submission http.Header) (queue.Receipt, error) {
	r, err := e.use()
	if err != nil {
		return queue.Receipt{}, err
	}
	defer e.users.Done()
	a.Client = e.tracing.ClientTrace(submission) // tracing does not change while the engine is in use
	return r.Accept(ctx, a)
}

// withQueue has the queue looked into.
func (e *engine) withQueue(look func(queue.Queue) error) error {
	r, err := e.use()
	if err != nil {
		return err
	}
	defer e.users.Done()
	return look(r.Queue())
}

// serveAPI answers a request to the API. The error wraps queue.ErrClosed, or says
// why the store could not be opened; then nothing is answered.
func (e *engine) serveAPI(w http.ResponseWriter, r *http.Request) error {
	return e.serve(w, r, &e.api)
}

// serveConsole answers a request to the console, or returns an error as serveAPI
// does.
func (e *engine) serveConsole(w http.ResponseWriter, r *http.Request) error {
	return e.serve(w, r, &e.console)
}

func (e *engine) serve(w http.ResponseWriter, r *http.Request, with *http.Handler) error {
	if _, err := e.use(); err != nil {
		return err
	}
	defer e.users.Done()
	r, release := cutOffRequest(e.cutoff, w, r)
	defer release()
	(*with).ServeHTTP(w, r) // handlers do not change while the engine is in use
	return nil
}

// stopBy begins the stop: no more deliveries are taken, and what is in flight at
// the deadline is cut off. It returns at once. The earliest deadline counts.
func (e *engine) stopBy(deadline time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.relay != nil {
		e.relay.Drain(e.cutoff)
	}
	if e.timer != nil {
		if !deadline.Before(e.deadline) {
			return
		}
		e.timer.Stop()
	}
	e.deadline, e.timer = deadline, time.AfterFunc(time.Until(deadline), e.cutOff)
}

// Destruct closes the engine: requests that come later get an error at once. The
// pool calls it, after the last configuration gave the engine back. When the
// process exits it waits for the end; a reload does not.
func (e *engine) Destruct() error {
	e.opening.Do(func() {}) // waits for an opening under way, prevents a later one
	e.mu.Lock()
	e.closed = true
	opened, spans := e.relay != nil, e.tracing
	e.mu.Unlock()
	if !opened {
		close(e.ended)
		return releaseTracing(spans)
	}
	if caddy.Exiting() {
		return e.end()
	}
	e.owner.endLater(e)
	return nil
}

// end ends the engine within bounded time: requests in flight are answered,
// attempts in flight end or are cut off uncounted, what was settled is committed.
func (e *engine) end() error {
	defer close(e.ended)
	e.stopBy(time.Now().Add(stopGrace))
	defer e.cutOff() // frees its timer and those who wait for it

	idle := make(chan struct{})
	go func() { e.users.Wait(); close(idle) }()
	select {
	case <-idle:
	case <-e.cutoff.Done():
		select {
		case <-idle:
		case <-time.After(answerGrace):
			// The store answers them ErrClosed.
		}
	}
	var errs []error
	if err := e.relay.Stop(e.cutoff); err != nil && e.cutoff.Err() == nil {
		errs = append(errs, fmt.Errorf("stopping the relay: %w", err))
	}
	// The last spans go out while the store closes: neither waits for the other.
	flushed := make(chan error, 1)
	go func() { flushed <- releaseTracing(e.tracing) }()
	closing, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	if err := e.queue.Close(closing); err != nil {
		errs = append(errs, fmt.Errorf("closing the store %s: %w", e.key, err))
	}
	return errors.Join(append(errs, <-flushed)...)
}
