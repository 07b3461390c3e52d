package caddymodule

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// The lock order of this package: each lock may be taken while those before it are
// held. A sync.Once counts as a lock, because its callers wait while it runs.
//
//	App.attaching > engine.opening > engine.limiting > the relay's > engineList.mu > engine.mu
//
// The relay reports changes of state while it holds its locks. switchLogger.mu and
// geoip.mu come last. Only the first three may be held during disk access.

// engines are all engines of this process. There is one list, because configurations
// come and go while a store stays open, and because Caddy's admin routes belong to
// no configuration.
var engines = engineList{pool: caddy.NewUsagePool(), ending: make(map[string]*engine)}

// When the process exits, wait for the engines that are ending. Each has a deadline.
func init() { caddy.OnExit(func(context.Context) { engines.ends.Wait() }) }

// engineList shares engines among configurations, and knows which engine the admin
// endpoint serves.
type engineList struct {
	pool *caddy.UsagePool // by StoreKey

	mu sync.Mutex
	// mu guards everything declared below.
	running []*running         // oldest first
	ending  map[string]*engine // released and not yet ended, by StoreKey
	ends    sync.WaitGroup     // the calls of end for engines in ending
}

// running is an app between Start and Stop.
type running struct {
	engine *engine
	// emit reports a webhook's change of state to the app's configuration.
	emit func(webhook, from, to string)
}

// acquire returns the engine of the opener's store and counts a reference to it. It
// does not open a new engine.
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

// release gives up a reference. The engine ends when nothing refers to it.
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

// stateChanged implements engineOwner. The newest running configuration that uses the
// engine emits the Caddy event.
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

// exiting begins the stop of e and of all engines that are ending.
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

// stopped removes the app. The admin endpoint then serves the engine of the newest app
// that still runs. stopped may be called for an app that was not started.
func (l *engineList) stopped(r *running) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running = slices.DeleteFunc(l.running, func(other *running) bool { return r == other })
}

// current returns the engine of the newest running app, or nil.
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
