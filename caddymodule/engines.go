package caddymodule

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// Locks of this package, in the order in which they are taken. A sync.Once counts as
// one: others wait while it runs.
//
//	App.attaching > engine.opening > engine.limiting > the relay's > engineList.mu > engine.mu
//
// The relay reports changes of state under its locks. switchLogger.mu and geoip.mu
// are taken last. Only the first three are held while a disk works.

// engines are this process's engines. There is one list per process: a store can be
// open once in a process, configurations come and go above it, and Caddy's admin
// routes belong to no configuration.
var engines = engineList{pool: caddy.NewUsagePool(), ending: make(map[string]*engine)}

// Wait for what is ending when the process exits: each engine has a deadline.
func init() { caddy.OnExit(func(context.Context) { engines.ends.Wait() }) }

// engineList shares engines among configurations, and knows which configuration's
// engine the admin endpoint serves.
type engineList struct {
	pool *caddy.UsagePool // by StoreKey

	mu sync.Mutex
	// mu guards everything declared below.
	running []*running         // oldest first
	ending  map[string]*engine // given back and not ended, by StoreKey
	ends    sync.WaitGroup     // of those
}

// running is an app that was started and not stopped.
type running struct {
	engine *engine
	// emit reports a webhook's change of state to the app's configuration.
	emit func(webhook, from, to string)
}

// acquire returns the engine of the opener's store and counts a reference to it. A
// new engine is not opened.
func (l *engineList) acquire(opener QueueOpener, o QueueOptions, log *slog.Logger) (*engine, error) {
	value, loaded, err := l.pool.LoadOrNew(opener.StoreKey(), func() (caddy.Destructor, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return newEngine(l, opener, o, log, l.ending[opener.StoreKey()]), nil
	})
	if err != nil {
		return nil, err
	}
	e := value.(*engine)
	if loaded {
		e.warnDiffering(opener, log)
	}
	return e, nil
}

// release gives a reference back; the last one ends the engine.
func (l *engineList) release(e *engine) error {
	_, err := l.pool.Delete(e.key)
	return err
}

// endLater implements engineOwner.
func (l *engineList) endLater(e *engine) {
	l.mu.Lock()
	l.ending[e.key] = e
	l.mu.Unlock()
	l.ends.Go(func() {
		if err := e.end(); err != nil {
			e.options.Logger.Error("ending the engine of a store that left the configuration", "store", e.key, "error", err)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.ending[e.key] == e {
			delete(l.ending, e.key)
		}
	})
}

// stateChanged implements engineOwner: the newest running configuration of the
// engine's store reports it.
func (l *engineList) stateChanged(e *engine, webhook, from, to string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range slices.Backward(l.running) {
		if r.engine == e {
			r.emit(webhook, from, to)
			return
		}
	}
}

// exiting begins the stop of an engine and of those that are ending.
func (l *engineList) exiting(e *engine, deadline time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.stopBy(deadline)
	for _, e := range l.ending {
		e.stopBy(deadline)
	}
}

// started makes the app the one whose engine the admin endpoint serves.
func (l *engineList) started(r *running) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running = append(l.running, r)
}

// stopped ends that; the newest app still running takes its place. An app that
// was not started may be stopped.
func (l *engineList) stopped(r *running) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running = slices.DeleteFunc(l.running, func(other *running) bool { return r == other })
}

// current is the engine of the newest running app, or nil.
func (l *engineList) current() *engine {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.running) == 0 {
		return nil
	}
	return l.running[len(l.running)-1].engine
}

// Interface guard
var _ engineOwner = (*engineList)(nil)
