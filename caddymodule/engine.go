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

	"github.com/userhero/relay/caddymodule/memory"
	"github.com/userhero/relay/caddymodule/sites"
	"github.com/userhero/relay/caddymodule/telemetry"
	"github.com/userhero/relay/caddymodule/version"
	"github.com/userhero/relay/console"
	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/console/resend"
	"github.com/userhero/relay/console/scope"
	"github.com/userhero/relay/intake"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
)

// Time limits for ending an engine.
const (
	// answerGrace is the time that requests have to answer after they were cut off.
	answerGrace = 2 * time.Second
	// closeGrace is the time that the store has to close.
	closeGrace = 20 * time.Second
)

// Times of opening a store on other machines.
const (
	// openWait is how long a start waits for it.
	openWait = 5 * time.Second
	// openPause is the pause before the next try.
	openPause = time.Second
	// openPatience is how long a submission waits for it. It is as long as one waits for the
	// servers of an open store.
	openPatience = 12 * time.Second
)

// engine is one store and the relay that works on it. All configurations that name
// the same store share its engine, so deliveries go on during a reload.
//
//	           acquire          attach, accept        last release
//	(nothing) ────────► unopened ───────────► open ─────────────► closed
//	                     │  └──────────────────▲ ──────────────────▲
//	                     │                     │ opened            │
//	                     │ servers are away ► waiting ─────────────┤
//	                     │ opening failed ──► failed ──────────────┘
type engine struct {
	owner    engineOwner
	key      string
	opener   QueueOpener
	options  QueueOptions
	settings map[string]string
	memory   *intake.Memory // what submissions may hold
	metrics  *telemetry.Metrics
	observer observer // counts, and reports changes of state to the owner
	log      *switchLogger

	// config is the configuration that was attached last.
	config atomic.Pointer[caddy.Context]

	opening sync.Once
	// wanted is done when no configuration wants the store that is not open yet.
	wanted   context.Context //nolint:containedctx // ends the opening
	unwanted context.CancelFunc
	trying   sync.WaitGroup // the goroutine that opens a store in the background
	decided  chan struct{}  // closed when the store is open, or never will be
	users    sync.WaitGroup // calls that use the relay; added to only while not closed
	before   *engine        // an engine of the same store that is still ending, or nil
	ended    chan struct{}  // closed after the store was closed

	// cutoff is done at the deadline of the stop. Requests and attempts that are in
	// flight then are cut off.
	cutoff context.Context
	cutOff context.CancelFunc

	limiting sync.Mutex    // guards attached; held before mu
	attached []*attachment // oldest first

	mu      sync.RWMutex // guards everything below; never held during disk access
	closed  bool
	failure error // why the store is not open; wraps queue.ErrUnavailable if it may open later
	queue   queue.Queue
	relay   *relay.Relay
	tracing *telemetry.Tracing // nil if no spans are made
	api     http.Handler
	// consoles has the console of each scope that was asked for.
	consoles map[string]http.Handler
	resends  resend.All // of all consoles; locks itself
	started  time.Time
	// The deadline of the stop and its timer; zero and nil before the stop begins.
	deadline time.Time
	timer    *time.Timer
}

// engineOwner is what an engine calls in the list that it belongs to.
type engineOwner interface {
	// endLater starts the engine's end method and does not wait for it.
	endLater(*engine)
	// stateChanged reports a webhook's change of state. The caller holds locks of
	// the relay.
	stateChanged(e *engine, webhook, from, to string)
}

// attachment is one configuration's settings in an engine.
type attachment struct {
	config     relay.Config
	generation *relay.Generation // nil while the store is not open; guarded by engine.limiting
	limits     queue.Limits
	log        *slog.Logger
	once       sync.Once
	err        error
}

// newEngine returns an engine whose store is not open. If before is not nil, it still
// has the store open, and the new engine waits for its end before it opens the store.
func newEngine(owner engineOwner, opener QueueOpener, o QueueOptions, log *slog.Logger, before *engine) *engine {
	e := &engine{
		owner:    owner,
		key:      opener.StoreKey(),
		opener:   opener,
		options:  o,
		settings: opener.StoreSettings(),
		log:      newSwitchLogger(log),
		before:   before,
		decided:  make(chan struct{}),
		ended:    make(chan struct{}),
	}
	limit := memory.Read()
	e.memory, e.options.Memory = intake.NewMemory(limit.Intake()), limit.Bytes
	e.cutoff, e.cutOff = context.WithCancel(context.Background())
	e.wanted, e.unwanted = context.WithCancel(context.Background())
	e.metrics = telemetry.NewMetrics(telemetry.MetricsOptions{
		Relay: e.current, SpansLost: e.lostSpans,
		Certificates:    func() []telemetry.Certificate { return sites.Certificates(e.config.Load()) },
		RejectedReasons: intake.RejectedReasons(), MissedReasons: intake.MissedReasons(),
	})
	e.observer = observer{e.metrics, func(webhook, from, to string) { owner.stateChanged(e, webhook, from, to) }}
	e.options.Logger = e.log.logger()
	e.options.OnCommit = e.metrics.Committed
	return e
}

// warnDiffering logs which options of a new configuration differ from those that the
// store was opened with. They take effect only when the store is opened again.
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

// open opens the store and starts the relay, once. Every caller gets the same error,
// until a store on other machines is open. Opening does not use the caller's context,
// because the first caller may be a request whose client disconnects.
func (e *engine) open() error {
	e.opening.Do(func() {
		if e.before != nil {
			<-e.before.ended
			e.before = nil
		}
		spans := acquireTracing(e.options.Logger)
		e.mu.Lock()
		e.tracing = spans
		e.mu.Unlock()
		if !e.opener.Remote() {
			q, r, err := e.build(e.wanted)
			if err == nil {
				err = e.putIntoUse(q, r)
			}
			e.fail(err)
			return
		}
		e.fail(fmt.Errorf("%w: it is being opened", queue.ErrUnavailable))
		first := make(chan struct{})
		e.trying.Go(func() { e.tryUntilOpen(first) })
		select {
		case <-first:
		case <-time.After(openWait):
		}
	})
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.closed {
		return errEngineClosed
	}
	return e.failure
}

// tryUntilOpen opens the store. If that fails, it tries again until the store is open or
// the engine is closed. It closes first after the first try.
func (e *engine) tryUntilOpen(first chan<- struct{}) {
	var q queue.Queue
	var r *relay.Relay
	var told string
	for tried := false; ; tried = true {
		var err error
		if r == nil {
			q, r, err = e.build(e.wanted)
		}
		if err == nil {
			err = e.putIntoUse(q, r)
		}
		e.fail(err)
		if !tried {
			close(first)
		}
		if err == nil {
			return
		}
		if err.Error() != told && e.wanted.Err() == nil {
			told = err.Error()
			e.options.Logger.Error("the store is not open; submissions are answered 503 until it is", "store", e.key, "error", err)
		}
		select {
		case <-time.After(openPause):
		case <-e.wanted.Done():
			if r != nil {
				_ = abandon(q, r) // it was never used
			}
			return
		}
	}
}

// fail notes why the store is not open; nil means that it is.
func (e *engine) fail(err error) {
	if err != nil {
		err = fmt.Errorf("opening the store %s: %w", e.key, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failure = err
}

// putIntoUse applies the settings that came before the store was open, and then lets
// others use it: an event that is accepted earlier would find no webhooks. It may be
// called again after an error.
func (e *engine) putIntoUse(q queue.Queue, r *relay.Relay) error {
	return e.limit(func() (err error) {
		for _, a := range e.attached {
			if a.generation != nil {
				continue
			}
			if a.generation, err = r.Attach(a.config); err != nil {
				return fmt.Errorf("applying the webhooks: %w", err)
			}
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.closed {
			return errEngineClosed
		}
		e.failure = nil
		e.queue, e.relay, e.started = q, r, time.Now()
		close(e.decided)
		e.api, e.consoles = api.New(e.apiOptions(scope.Scope{})), make(map[string]http.Handler)
		return nil
	})
}

// apiOptions returns the options of the API and the console of a scope. The caller
// holds mu.
func (e *engine) apiOptions(s scope.Scope) api.Options {
	return api.Options{Relay: e.relay, Scope: s, Resends: &e.resends, Version: version.String(), Started: e.started, Logger: e.options.Logger, Ending: e.ending}
}

// consoleOf returns the console of a scope. It outlives reloads, because it keeps the
// outcomes of forms. The engine must be in use.
func (e *engine) consoleOf(s scope.Scope) http.Handler {
	key := fmt.Sprint(s.ReadOnly, s.Key())
	e.mu.Lock()
	defer e.mu.Unlock()
	c, ok := e.consoles[key]
	if !ok {
		c = console.New(e.apiOptions(s))
		e.consoles[key] = c
	}
	return c
}

// logOpen logs what the store contains and how long it took to open.
func (e *engine) logOpen(s queue.Stats, took time.Duration) {
	var waiting int64
	for _, w := range s.Webhooks {
		waiting += w.Waiting()
	}
	e.options.Logger.Info("the store is open", "store", e.key, "events", s.Events, "waiting", waiting, "disk_bytes", s.DiskBytes, "took", took)
}

// build opens the store and starts its relay.
func (e *engine) build(ctx context.Context) (queue.Queue, *relay.Relay, error) {
	began := time.Now()
	memory.Read().Warn(e.options.Logger)
	q, err := e.opener.OpenQueue(ctx, e.options)
	if err != nil {
		return nil, nil, err
	}
	e.logOpen(q.Stats(ctx), time.Since(began))
	r := relay.New(relay.Options{
		Queue:    q,
		Logger:   e.options.Logger,
		Version:  version.String(),
		Observer: e.observer,
		Tracer:   e.tracing.Tracer(), // tracing does not change once opening has begun
		Own:      func(to netip.AddrPort) bool { return sites.IsOwnListener(to, e.config.Load()) },
	})
	if err := r.Start(ctx); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("starting the relay: %w", err), abandon(q, r))
	}
	return q, r, nil
}

// abandon stops a relay that no configuration has used, and closes its store.
func abandon(q queue.Queue, r *relay.Relay) error {
	closing, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	return errors.Join(r.Stop(closing), q.Close(closing))
}

// attach puts settings into effect. It opens the engine if it is not open. If the
// store's servers are away, the settings take effect when the store opens.
func (e *engine) attach(c relay.Config, limits queue.Limits, log *slog.Logger) (*attachment, error) {
	if err := e.open(); err != nil && !errors.Is(err, queue.ErrUnavailable) {
		return nil, err
	}
	e.log.push(log)
	a := &attachment{config: c, limits: limits, log: log}
	err := e.limit(func() error {
		r, err := e.use()
		switch {
		case err == nil:
			defer e.users.Done()
			if a.generation, err = r.Attach(c); err != nil {
				return fmt.Errorf("applying the webhooks: %w", err)
			}
		case !errors.Is(err, queue.ErrUnavailable):
			return err
		}
		e.attached = append(e.attached, a)
		return nil
	})
	if err != nil {
		e.log.remove(log)
		return nil, err
	}
	return a, nil
}

// limit calls change, which edits e.attached, and then sets the store's limits to
// those of the newest configuration that is attached.
func (e *engine) limit(change func() error) error {
	e.limiting.Lock()
	defer e.limiting.Unlock()
	err := change()
	e.mu.RLock()
	q, ok := e.queue.(queue.Limited)
	e.mu.RUnlock()
	if ok && len(e.attached) > 0 {
		q.SetLimits(e.attached[len(e.attached)-1].limits)
	}
	return err
}

// detach withdraws settings. Detaching twice is allowed.
func (e *engine) detach(a *attachment) error {
	a.once.Do(func() {
		a.err = e.limit(func() error {
			e.attached = slices.DeleteFunc(e.attached, func(b *attachment) bool { return a == b })
			if a.generation == nil {
				return nil
			}
			return a.generation.Detach()
		})
		e.log.remove(a.log)
	})
	return a.err
}

// use returns the relay and keeps the engine open until the caller calls users.Done.
// If the engine is closed or was never opened, the error wraps queue.ErrClosed.
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

// await is use for a submission. While the store is being opened, it waits until giveUp.
// What the submission holds meanwhile is bounded by e.memory.
func (e *engine) await(giveUp time.Time) (*relay.Relay, error) {
	r, err := e.use()
	if !errors.Is(err, queue.ErrUnavailable) {
		return r, err
	}
	timeout := time.NewTimer(time.Until(giveUp))
	defer timeout.Stop()
	select {
	case <-e.decided:
	case <-timeout.C:
	case <-e.cutoff.Done():
	}
	return e.use()
}

// current returns the relay, to read its counters, or nil if it is not running.
func (e *engine) current() *relay.Relay {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.closed {
		return nil
	}
	return e.relay
}

// lostSpans returns the number of spans that were not exported, by reason.
func (e *engine) lostSpans() map[string]int64 {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.tracing.Lost()
}

// ending reports whether lasting requests should end. At a stop, Caddy waits for
// requests before it stops apps, and the engine waits before it stops the relay.
func (e *engine) ending() bool { return caddy.Exiting() || e.current() == nil }

// accept passes a submission to the relay; submission is the request's header.
func (e *engine) accept(ctx context.Context, giveUp time.Time, entry queue.Entry, submission http.Header) (queue.Receipt, error) {
	r, err := e.await(giveUp)
	if err != nil {
		return queue.Receipt{}, err
	}
	defer e.users.Done()
	return r.Accept(e.tracing.WithClient(ctx, submission), entry) // tracing does not change while the engine is in use
}

// withQueue calls look with the queue. The engine stays open during the call.
func (e *engine) withQueue(giveUp time.Time, look func(queue.Queue) error) error {
	r, err := e.await(giveUp)
	if err != nil {
		return err
	}
	defer e.users.Done()
	return look(r.Queue())
}

// serveAPI answers a request to the API. If it returns an error, it has not answered.
// The error wraps queue.ErrClosed or the error of opening the store.
func (e *engine) serveAPI(w http.ResponseWriter, r *http.Request) error {
	return e.serve(w, r, func() http.Handler { return e.api }) // it does not change while the engine is in use
}

// serveConsole answers a request to the console of a scope. Its errors are those of
// serveAPI.
func (e *engine) serveConsole(w http.ResponseWriter, r *http.Request, s scope.Scope) error {
	return e.serve(w, r, func() http.Handler { return e.consoleOf(s) })
}

func (e *engine) serve(w http.ResponseWriter, r *http.Request, with func() http.Handler) error {
	if _, err := e.use(); err != nil {
		return err
	}
	defer e.users.Done()
	r, release := cutOffRequest(e.cutoff, w, r)
	defer release()
	with().ServeHTTP(w, r)
	return nil
}

// stopBy begins the stop and returns at once. The relay begins no more attempts.
// Requests and attempts in flight at the deadline are cut off. If stopBy is called
// again, the earliest deadline counts.
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

// Destruct closes the engine; later requests get an error at once. The pool calls it
// after the last configuration has released the engine. It waits for the engine's end
// if the process exits, and does not wait if Caddy reloads.
func (e *engine) Destruct() error {
	e.opening.Do(func() {}) // waits for a call of open that runs, and prevents later ones
	e.mu.Lock()
	e.closed = true
	opened, spans := e.relay != nil, e.tracing
	if !opened {
		close(e.decided)
	}
	e.mu.Unlock()
	if !opened {
		e.unwanted()
		go func() { e.trying.Wait(); close(e.ended) }()
		return releaseTracing(spans)
	}
	if caddy.Exiting() {
		return e.end()
	}
	e.owner.endLater(e)
	return nil
}

// end ends the engine within bounded time. Requests in flight are answered. Attempts
// in flight end, or are cut off and not counted. All settlements are committed.
func (e *engine) end() error {
	defer close(e.ended)
	e.stopBy(time.Now().Add(stopGrace))
	defer e.cutOff() // frees everything that waits for cutoff

	idle := make(chan struct{})
	go func() { e.users.Wait(); close(idle) }()
	select {
	case <-idle:
	case <-e.cutoff.Done():
		select {
		case <-idle:
		case <-time.After(answerGrace):
			// The store will answer the rest with queue.ErrClosed.
		}
	}
	var errs []error
	if err := e.relay.Stop(e.cutoff); err != nil && e.cutoff.Err() == nil {
		errs = append(errs, fmt.Errorf("stopping the relay: %w", err))
	}
	// Export the last spans while the store closes.
	flushed := make(chan error, 1)
	go func() { flushed <- releaseTracing(e.tracing) }()
	closing, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	if err := e.queue.Close(closing); err != nil {
		errs = append(errs, fmt.Errorf("closing the store %s: %w", e.key, err))
	}
	return errors.Join(append(errs, <-flushed)...)
}
