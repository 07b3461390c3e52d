package caddymodule

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// complaints logs what befalls many requests at once, such as a full disk, at
// most once a second, with the number of those it stands for.
type complaints struct {
	since  atomic.Int64 // of the last line, nanoseconds since 1970
	silent atomic.Int64 // left out since then
}

// log writes a line, or counts it. The context is the request's: its span is
// named with Caddy's own keys.
func (c *complaints) log(ctx context.Context, log *slog.Logger, level slog.Level, what string, attrs ...slog.Attr) {
	now := time.Now().UnixNano()
	last := c.since.Load()
	if now-last < int64(time.Second) || !c.since.CompareAndSwap(last, now) {
		c.silent.Add(1)
		return
	}
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		attrs = append(attrs, slog.String("traceID", sc.TraceID().String()), slog.String("spanID", sc.SpanID().String()))
	}
	if others := c.silent.Swap(0); others > 0 {
		attrs = append(attrs, slog.Int64("others", others))
	}
	log.LogAttrs(ctx, level, what, attrs...)
}
