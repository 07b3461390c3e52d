package intake

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// Log writes what the operator must know. What happens to many requests at once
// makes few lines. Handlers share one, so that this holds for all of them together.
type Log struct {
	*slog.Logger
	unstored, unread complaints
}

// NewLog returns a Log that writes to l.
func NewLog(l *slog.Logger) *Log { return &Log{Logger: l} }

// Flush writes what was left out. Call it before l is closed.
func (l *Log) Flush() {
	l.unstored.flush()
	l.unread.flush()
}

// complaintsEvery is the least time between two lines about the same.
const complaintsEvery = 10 * time.Second

// complaints logs what happens to many requests at once, such as a full disk:
// the first at once, then at most one line in complaintsEvery, with the number
// of those that it stands for besides.
type complaints struct {
	mu    sync.Mutex  // guards everything below
	timer *time.Timer // ends the time without lines; nil before the first
	last  func(others int64)
	left  int64 // out since the last line
}

// log writes a line, or counts it. The span of the request's context is named
// with Caddy's own keys. The context itself is kept from the logger: Caddy adds a
// stack trace to errors that are logged with a request's (v2.11.9).
func (c *complaints) log(ctx context.Context, log *slog.Logger, level slog.Level, what string, attrs ...slog.Attr) {
	attrs = withTrace(ctx, attrs)
	line := func(others int64) {
		all := attrs
		if others > 0 {
			all = append(all[:len(all):len(all)], slog.Int64("others", others))
		}
		log.LogAttrs(context.Background(), level, what, all...)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.left++
		c.last = line
		return
	}
	line(0)
	c.timer = time.AfterFunc(complaintsEvery, c.tick)
}

// tick writes the last of the lines that were left out, or ends the time without
// lines.
func (c *complaints) tick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer == nil {
		return // flushed
	}
	if c.left == 0 {
		c.timer = nil
		return
	}
	c.writeLocked()
	c.timer.Reset(complaintsEvery)
}

// flush writes what was left out, before the log is closed.
func (c *complaints) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer == nil {
		return
	}
	c.timer.Stop()
	c.timer = nil
	if c.left > 0 {
		c.writeLocked()
	}
}

func (c *complaints) writeLocked() {
	c.last(c.left - 1)
	c.last, c.left = nil, 0
}

// withTrace adds the request's span, named with Caddy's own keys.
func withTrace(ctx context.Context, attrs []slog.Attr) []slog.Attr {
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		attrs = append(attrs, slog.String("traceID", sc.TraceID().String()), slog.String("spanID", sc.SpanID().String()))
	}
	return attrs
}
