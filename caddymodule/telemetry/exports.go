package telemetry

import (
	"context"
	"log/slog"
	"sync/atomic"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// exports counts the spans that are lost on their way through the SDK's batches,
// which keep no such count that can be read, and logs when exporting begins to fail
// and when it works again: not every batch, because a collector may be away for
// days.
type exports struct {
	limit   int64        // of waiting
	waiting atomic.Int64 // spans that ended and whose export has not begun
	dropped atomic.Int64 // spans that ended while limit others waited
	lost    atomic.Int64 // spans whose export failed
	// unlogged is how many were lost since the log said that exporting fails.
	unlogged atomic.Int64

	log atomic.Pointer[slog.Logger]

	// end ends every export, also those that begin later.
	end    context.Context //nolint:containedctx // its end ends the exports
	cutOff context.CancelFunc
}

func newExports(limit int, log *slog.Logger) *exports {
	e := &exports{limit: int64(limit)}
	e.log.Store(log)
	e.end, e.cutOff = context.WithCancel(context.Background())
	return e
}

// countedProcessor passes on the spans that find room in the batch processor's
// queue.
type countedProcessor struct {
	sdktrace.SpanProcessor
	exports *exports
}

// OnEnd implements sdktrace.SpanProcessor.
func (p countedProcessor) OnEnd(s sdktrace.ReadOnlySpan) {
	if e := p.exports; e.waiting.Add(1) > e.limit {
		e.waiting.Add(-1)
		e.dropped.Add(1)
		return
	}
	p.SpanProcessor.OnEnd(s)
}

// countedExporter counts and logs what cannot be exported.
type countedExporter struct {
	sdktrace.SpanExporter
	exports *exports
}

// ExportSpans exports a batch. The batch processor calls it with one batch at a
// time. It returns no error: the SDK would write each one to the standard
// library's log.
func (c countedExporter) ExportSpans(ctx context.Context, batch []sdktrace.ReadOnlySpan) error {
	e, n := c.exports, int64(len(batch))
	e.waiting.Add(-n)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.end, cancel)()
	err := c.SpanExporter.ExportSpans(ctx, batch)
	if err == nil {
		if lost := e.unlogged.Swap(0); lost > 0 {
			e.log.Load().Info("spans are exported again", "lost", lost)
		}
		return nil
	}
	e.lost.Add(n)
	if e.unlogged.Add(n) == n {
		e.log.Load().Warn("spans are not exported", "error", err)
	}
	return nil
}
