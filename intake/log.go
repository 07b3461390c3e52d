package intake

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// Log is where handlers log. All handlers of a configuration share one, so that an error
// that hits many requests at once, such as a full disk, makes few lines.
type Log struct {
	*slog.Logger
	unstored throttle // submissions that the store refused
	unread   throttle // answers of which a part is in no event
}

// NewLog returns a Log that writes to l.
func NewLog(l *slog.Logger) *Log { return &Log{Logger: l} }

// Flush writes the lines that still wait. Call it before l is closed.
func (l *Log) Flush() {
	l.unstored.flush()
	l.unread.flush()
}

// logPause is the least time between two lines of a throttle.
const logPause = 10 * time.Second

// throttle logs the first of many equal events at once, and then at most one line in
// logPause, which counts the events since the line before as "others".
type throttle struct {
	mu      sync.Mutex         // guards everything below
	timer   *time.Timer        // runs while a pause lasts; nil between pauses
	last    func(others int64) // writes the line of the last event that waits
	waiting int64              // events since the last line
}

// log writes a line, or counts it. The line names the span of ctx. The logger does not
// get ctx itself: Caddy v2.11.9 adds a stack trace to errors that are logged with the
// context of a request.
func (t *throttle) log(ctx context.Context, log *slog.Logger, level slog.Level, what string, attrs ...slog.Attr) {
	attrs = withTrace(ctx, attrs)
	line := func(others int64) {
		all := attrs
		if others > 0 {
			all = append(all[:len(all):len(all)], slog.Int64("others", others))
		}
		log.LogAttrs(context.Background(), level, what, all...)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer != nil {
		t.waiting++
		t.last = line
		return
	}
	line(0)
	t.timer = time.AfterFunc(logPause, t.tick)
}

// tick ends a pause: it writes the last line that waits and begins another pause.
func (t *throttle) tick() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer == nil {
		return // flushed
	}
	if t.waiting == 0 {
		t.timer = nil
		return
	}
	t.writeLocked()
	t.timer.Reset(logPause)
}

// flush writes the line that waits and ends the pause.
func (t *throttle) flush() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer == nil {
		return
	}
	t.timer.Stop()
	t.timer = nil
	if t.waiting > 0 {
		t.writeLocked()
	}
}

func (t *throttle) writeLocked() {
	t.last(t.waiting - 1)
	t.last, t.waiting = nil, 0
}

// withTrace adds the span of the request, with the keys that Caddy uses.
func withTrace(ctx context.Context, attrs []slog.Attr) []slog.Attr {
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		attrs = append(attrs, slog.String("traceID", sc.TraceID().String()), slog.String("spanID", sc.SpanID().String()))
	}
	return attrs
}
