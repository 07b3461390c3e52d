package caddymodule

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
)

// switchLogger writes to the logger of the newest attached configuration. An engine
// needs it, because it outlives configurations, and Caddy closes the log files of a
// configuration that has stopped.
type switchLogger struct {
	target atomic.Pointer[slog.Logger]

	mu    sync.Mutex // guards stack
	stack []*slog.Logger
}

func newSwitchLogger(first *slog.Logger) *switchLogger {
	s := new(switchLogger)
	s.target.Store(first)
	return s
}

// push makes l the newest logger.
func (s *switchLogger) push(l *slog.Logger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stack = append(s.stack, l)
	s.target.Store(l)
}

// remove removes l. If no logger is left, the target does not change.
func (s *switchLogger) remove(l *slog.Logger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.stack, l); i >= 0 {
		s.stack = slices.Delete(s.stack, i, i+1)
	}
	if n := len(s.stack); n > 0 {
		s.target.Store(s.stack[n-1])
	}
}

// logger returns a logger that always writes to the current target.
func (s *switchLogger) logger() *slog.Logger { return slog.New(switchHandler{s: s}) }

// switchHandler adds its attributes and groups to the target for each record, because
// the target may have changed. That is fast enough: the relay logs few records.
type switchHandler struct {
	s      *switchLogger
	derive []func(slog.Handler) slog.Handler
}

// Enabled reports whether the current target handles the level.
func (h switchHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.s.target.Load().Handler().Enabled(ctx, level)
}

// Handle passes the record to the current target.
func (h switchHandler) Handle(ctx context.Context, r slog.Record) error {
	target := h.s.target.Load().Handler()
	for _, derive := range h.derive {
		target = derive(target)
	}
	return target.Handle(ctx, r)
}

// WithAttrs returns a handler that adds the attributes.
func (h switchHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.with(func(t slog.Handler) slog.Handler { return t.WithAttrs(attrs) })
}

// WithGroup returns a handler that opens the group.
func (h switchHandler) WithGroup(name string) slog.Handler {
	return h.with(func(t slog.Handler) slog.Handler { return t.WithGroup(name) })
}

func (h switchHandler) with(derive func(slog.Handler) slog.Handler) slog.Handler {
	return switchHandler{s: h.s, derive: append(slices.Clip(h.derive), derive)}
}
