package telemetry

import (
	"context"
	"log/slog"
	"sync/atomic"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// exports counts the spans that are not exported, because the SDK has no such count
// that can be read. It logs when exporting begins to fail and when it works again. It
// does not log each failed batch, because a collector may be down for days.
type exports struct {
	limit   int64        // the largest value of waiting
	waiting atomic.Int64 // spans that ended and whose export has not begun
	dropped atomic.Int64 // spans that were dropped because limit spans were waiting
	lost    atomic.Int64 // spans whose export failed
	// unlogged counts the spans lost since exporting began to fail; 0 while it works.
	unlogged atomic.Int64

	log atomic.Pointer[slog.Logger]

	// end is done when all exports must end, including those that begin later.
	end    context.Context //nolint:containedctx // ends the exports
	cutOff context.CancelFunc
}

func newExports(limit int, log *slog.Logger) *exports {
	e := &exports{limit: int64(limit)}
	e.log.Store(log)
	e.end, e.cutOff = context.WithCancel(context.Background())
	return e
}

// countedProcessor passes spans to the batch processor. It drops and counts the spans
// for which the processor's queue has no room.
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

// countedExporter counts and logs the spans that cannot be exported.
type countedExporter struct {
	sdktrace.SpanExporter
	exports *exports
}

// ExportSpans exports a batch. The batch processor calls it with one batch at a
// time. It always returns nil, because the SDK would write each error to the standard
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
