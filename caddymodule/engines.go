package caddymodule

import (
	"log/slog"
	"slices"
	"sync"

	"github.com/caddyserver/caddy/v2"
)

// engines are this process's engines. One list per process is what the matter
// asks for: a store can be open once in a process, configurations come and go
// above it, and Caddy's admin routes belong to no configuration.
var engines = engineList{pool: caddy.NewUsagePool()}

// engineList shares engines among configurations, and knows which
// configuration's engine the admin endpoint speaks for.
type engineList struct {
	pool *caddy.UsagePool // by StoreKey

	mu      sync.Mutex // guards running
	running []*App     // started and not stopped, oldest first
}

// acquire returns the engine of the opener's store, made where there is none,
// and counts a reference to it. Nothing is opened.
func (l *engineList) acquire(opener QueueOpener, o QueueOptions, log *slog.Logger) (*engine, error) {
	value, loaded, err := l.pool.LoadOrNew(opener.StoreKey(), func() (caddy.Destructor, error) {
		return newEngine(opener, o, log), nil
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
