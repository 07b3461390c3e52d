package caddymodule

import (
	"context"

	"go.opentelemetry.io/otel/trace"

	"github.com/userhero/relay/queue"
)

// traceOf is the context of the request's span where Caddy's tracing is on,
// stored with the event so that its deliveries can be linked to it.
func traceOf(ctx context.Context) queue.TraceContext {
	sc := trace.SpanContextFromContext(ctx)
	if !sc.IsValid() {
		return queue.TraceContext{}
	}
	t := queue.TraceContext{
		TraceID: sc.TraceID(),
		SpanID:  sc.SpanID(),
		Flags:   byte(sc.TraceFlags()),
	}
	if state := sc.TraceState().String(); len(state) <= 512 { // W3C Trace Context, §3.3.1.5
		t.State = state
	}
	return t
}
