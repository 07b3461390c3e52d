package caddymodule

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// engines are this process's engines. One list per process is what the matter
// asks for: a store can be open once in a process, configurations come and go
// above it, and Caddy's admin routes belong to no configuration.
var engines = engineList{pool: caddy.NewUsagePool(), ending: make(map[string]*engine)}

// What is ending when the process exits may end, within its deadline.
func init() { caddy.OnExit(func(context.Context) { engines.ends.Wait() }) }

// engineList shares engines among configurations, and knows which
// configuration's engine the admin endpoint speaks for.
type engineList struct {
	pool *caddy.UsagePool // by StoreKey

	mu      sync.Mutex         // guards running and ending
	running []*App             // started and not stopped, oldest first
	ending  map[string]*engine // given back and not ended, by StoreKey
	ends    sync.WaitGroup     // of those
}

// acquire returns the engine of the opener's store, made where there is none,
// and counts a reference to it. Nothing is opened.
func (l *engineList) acquire(opener QueueOpener, o QueueOptions, log *slog.Logger) (*engine, error) {
	value, loaded, err := l.pool.LoadOrNew(opener.StoreKey(), func() (caddy.Destructor, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return newEngine(opener, o, log, l.ending[opener.StoreKey()]), nil
	})
	if err != nil {
		return nil, err
	}
	e := value.(*engine)
	if loaded {
		warnDiffering(log, e.key, e.differing(opener))
	}
	return e, nil
}

// release gives a reference back; the last one ends the engine.
func (l *engineList) release(e *engine) error {
	_, err := l.pool.Delete(e.key)
	return err
}

// endLater ends an engine that was given back, without waiting for it.
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

// exiting begins the stop of the app's engine and of those that are ending.
func (l *engineList) exiting(a *App, deadline time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a.engine.stopBy(deadline)
	for _, e := range l.ending {
		e.stopBy(deadline)
	}
}

// started makes the app the one the admin endpoint speaks for.
func (l *engineList) started(a *App) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running = append(l.running, a)
}

// stopped ends that; the newest app still running takes its place. An app that
// was not started may be stopped.
func (l *engineList) stopped(a *App) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running = slices.DeleteFunc(l.running, func(b *App) bool { return a == b })
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
