package caddymodule

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

const (
	// tracingScope names the instrumentation that makes the relay's spans.
	tracingScope = "github.com/userhero/relay"
	// serviceName is the service's unless OTEL_SERVICE_NAME says otherwise.
	serviceName = "userhero-relay"
	// flushGrace bounds the export of what is left when the last engine ends.
	flushGrace = 3 * time.Second
	// spanQueue is how many ended spans wait for export unless
	// OTEL_BSP_MAX_QUEUE_SIZE says otherwise; more are dropped. The SDK's 2,048 are
	// gone in 50 ms at the relay's full speed.
	spanQueue = 16384
)

// tracings holds the one tracing of this process while an engine uses it. What
// turns it on are environment variables, which no configuration changes, and a
// span may end long after the configuration that began it: Caddy's own tracer
// provider is out of reach for modules and ends with a configuration.
var tracings = caddy.NewUsagePool()

// tracing exports spans as the standard OTEL_* variables say.
type tracing struct {
	provider *sdktrace.TracerProvider
	exporter *reportingExporter
}

// tracingWanted tells whether the environment asks for spans: it names an
// exporter, or an OTLP endpoint for traces. Without either nothing is exported;
// that the OTLP exporter has a default endpoint is no reason to look for a
// collector there.
func tracingWanted() bool {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return false
	}
	switch os.Getenv("OTEL_TRACES_EXPORTER") {
	case "none":
		return false
	case "":
		return os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != ""
	}
	return true
}

// acquireTracing returns the process's tracing and counts a reference to it, or
// nil where none is wanted or it cannot be had. The latter is logged and no
// more: feedback is not held up by what watches it.
func acquireTracing(log *slog.Logger) *tracing {
	if !tracingWanted() {
		return nil
	}
	value, loaded, err := tracings.LoadOrNew(tracingScope, func() (caddy.Destructor, error) { return newTracing(log) })
	if err != nil {
		log.Error("no spans are exported; see the OTEL_ variables of the environment", "error", err)
		return nil
	}
	t := value.(*tracing)
	if loaded {
		t.exporter.log.Store(log)
	}
	return t
}

// release gives a reference back; the last one exports what is left.
func (t *tracing) release() error {
	if t == nil {
		return nil
	}
	_, err := tracings.Delete(tracingScope)
	return err
}

// tracer is what a relay makes its spans with; nil of a nil tracing.
func (t *tracing) tracer() trace.Tracer {
	if t == nil {
		return nil
	}
	return t.provider.Tracer(tracingScope, trace.WithInstrumentationVersion(version()), trace.WithSchemaURL(semconv.SchemaURL))
}

func newTracing(log *slog.Logger) (*tracing, error) {
	ctx := context.Background()
	sampler, err := samplerFromEnvironment()
	if err != nil {
		log.Warn("traces are sampled as if nothing was said about it", "error", err)
	}
	described, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithHost(),
		resource.WithAttributes(semconv.ServiceName(serviceName), semconv.ServiceVersion(version())),
		resource.WithFromEnv(),
	)
	if err != nil {
		log.Warn("spans lack some of what describes their resource", "error", err)
	}
	exporter, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return nil, fmt.Errorf("making the exporter: %w", err)
	}
	reporting := newReportingExporter(exporter, log)
	var options []sdktrace.BatchSpanProcessorOption
	if os.Getenv("OTEL_BSP_MAX_QUEUE_SIZE") == "" {
		options = append(options, sdktrace.WithMaxQueueSize(spanQueue))
	}
	return &tracing{
		exporter: reporting,
		provider: sdktrace.NewTracerProvider(
			sdktrace.WithSampler(sampler), sdktrace.WithResource(described), sdktrace.WithBatcher(reporting, options...)),
	}, nil
}

// Destruct exports what is left, within bounded time. The pool calls it.
func (t *tracing) Destruct() error {
	ctx, cancel := context.WithTimeout(context.Background(), flushGrace)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("exporting the last spans: %w", err)
	}
	return nil
}

// reportingExporter logs when exporting begins to fail and when it works again,
// rather than every batch that is lost: a collector may be away for days.
type reportingExporter struct {
	sdktrace.SpanExporter
	log  atomic.Pointer[slog.Logger]
	lost atomic.Int64 // spans since exporting began to fail
}

func newReportingExporter(e sdktrace.SpanExporter, log *slog.Logger) *reportingExporter {
	r := &reportingExporter{SpanExporter: e}
	r.log.Store(log)
	return r
}

// ExportSpans exports a batch. The processor calls it with one batch at a time.
// An error ends here: passed on it would go to the standard library's log, each
// time.
func (e *reportingExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	switch {
	case err == nil:
		if lost := e.lost.Swap(0); lost > 0 {
			e.log.Load().Info("spans are exported again", "lost", lost)
		}
	case e.lost.Add(int64(len(spans))) == int64(len(spans)):
		e.log.Load().Warn("spans are not exported", "error", err)
	}
	return nil
}

// clientTrace is the trace context that a client sent along, where spans are
// made. It names a span that nobody here has seen.
func (e *engine) clientTrace(header http.Header) trace.SpanContext {
	if !e.traced || header.Get("Traceparent") == "" {
		return trace.SpanContext{}
	}
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), propagation.HeaderCarrier(header)))
}
