package telemetry

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/userhero/relay/caddymodule/spans"
)

const (
	// Scope names the instrumentation that makes the relay's spans.
	Scope = "github.com/userhero/relay"
	// serviceName is the service's unless OTEL_SERVICE_NAME says otherwise.
	serviceName = "userhero-relay"
	// flushGrace bounds the export of what is left when the last engine ends.
	flushGrace = 3 * time.Second
	// spanQueue is how many ended spans wait for export unless
	// OTEL_BSP_MAX_QUEUE_SIZE says otherwise; more are dropped. The SDK's 2,048 are
	// gone in 50 ms at the relay's full speed.
	spanQueue = 16384
)

// Tracing exports spans as the standard OTEL_* variables say.
type Tracing struct {
	made     trace.Tracer
	shutdown func(context.Context) error
	// dropped is how many spans found no room to wait for export; the SDK does not
	// tell.
	dropped func() int64
	exports *exports
}

// Wanted tells whether the environment asks for spans: it names an
// exporter, or an OTLP endpoint for traces. Without either nothing is exported;
// that the OTLP exporter has a default endpoint is no reason to look for a
// collector there.
func Wanted() bool {
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

// Tracer is what a relay makes its spans with; nil of a nil tracing.
func (t *Tracing) Tracer() trace.Tracer {
	if t == nil {
		return nil
	}
	return t.made
}

// NewTracing starts the export of spans; version is the relay's.
func NewTracing(version string, log *slog.Logger) (*Tracing, error) {
	ctx := context.Background()
	sampler, err := samplerFromEnvironment()
	if err != nil {
		log.Warn("traces are sampled as if nothing was said about it", "error", err)
	}
	described, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithHost(),
		resource.WithAttributes(semconv.ServiceName(serviceName), semconv.ServiceVersion(version)),
		resource.WithFromEnv(),
	)
	if err != nil {
		log.Warn("spans lack some of what describes their resource", "error", err)
	}
	t := &Tracing{exports: newExports(log)}
	if client := otlpClient(); client != nil {
		lean, err := spans.New(ctx, spans.Options{
			Client: client, Resource: described, Sampler: sampler, Limits: sdktrace.NewSpanLimits(),
			Scope:    instrumentation.Scope{Name: Scope, Version: version, SchemaURL: semconv.SchemaURL},
			Batching: batchingFromEnvironment(),
			Exported: t.exports.note,
		})
		if err != nil {
			return nil, err
		}
		t.made, t.shutdown, t.dropped = lean, lean.Shutdown, lean.Dropped
		return t, nil
	}
	exporter, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return nil, fmt.Errorf("making the exporter: %w", err)
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithSampler(sampler), sdktrace.WithResource(described), sdktrace.WithBatcher(notedExporter{exporter, t.exports}))
	t.made = provider.Tracer(Scope, trace.WithInstrumentationVersion(version), trace.WithSchemaURL(semconv.SchemaURL))
	t.shutdown, t.dropped = provider.Shutdown, func() int64 { return 0 }
	return t, nil
}

// Lost counts the spans that nobody will see, by reason; nothing of a nil
// tracing.
func (t *Tracing) Lost() map[string]int64 {
	if t == nil {
		return nil
	}
	return map[string]int64{"queue_full": t.dropped(), "not_exported": t.exports.lost.Load()}
}

// otlpClient is the client that the environment asks for, chosen as autoexport
// chooses; nil where it asks for another exporter, or for what nobody knows.
func otlpClient() otlptrace.Client {
	if cmp.Or(os.Getenv("OTEL_TRACES_EXPORTER"), "otlp") != "otlp" {
		return nil
	}
	switch cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"), os.Getenv("OTEL_EXPORTER_OTLP_PROTOCOL"), "http/protobuf") {
	case "http/protobuf":
		return otlptracehttp.NewClient()
	case "grpc":
		return otlptracegrpc.NewClient()
	}
	return nil
}

// batchingFromEnvironment is what OTEL_BSP_* say, which the SDK reads for itself
// and lends to nobody. What is no positive number is as if it was not there.
func batchingFromEnvironment() spans.Batching {
	number := func(name string, otherwise int) int {
		if n, err := strconv.Atoi(os.Getenv("OTEL_BSP_" + name)); err == nil && n > 0 {
			return n
		}
		return otherwise
	}
	return spans.Batching{
		Queue:   number("MAX_QUEUE_SIZE", spanQueue),
		Batch:   number("MAX_EXPORT_BATCH_SIZE", sdktrace.DefaultMaxExportBatchSize),
		Delay:   time.Duration(number("SCHEDULE_DELAY", sdktrace.DefaultScheduleDelay)) * time.Millisecond,
		Timeout: time.Duration(number("EXPORT_TIMEOUT", sdktrace.DefaultExportTimeout)) * time.Millisecond,
	}
}

// SetLogger changes where it is logged that exporting fails, and that it works
// again.
func (t *Tracing) SetLogger(log *slog.Logger) { t.exports.log.Store(log) }

// Shutdown exports what is left, within bounded time.
func (t *Tracing) Shutdown() error {
	ctx, cancel := context.WithTimeout(context.Background(), flushGrace)
	defer cancel()
	if err := t.shutdown(ctx); err != nil {
		return fmt.Errorf("exporting the last spans: %w", err)
	}
	return nil
}

// exports logs when exporting begins to fail and when it works again, rather
// than every batch that is lost: a collector may be away for days.
type exports struct {
	log  atomic.Pointer[slog.Logger]
	lost atomic.Int64 // spans that were not exported
	// unsaid is how many of them were lost since the log said that exporting fails.
	unsaid atomic.Int64
}

func newExports(log *slog.Logger) *exports {
	e := new(exports)
	e.log.Store(log)
	return e
}

// note is told of each batch. One call at a time.
func (e *exports) note(n int, err error) {
	if err == nil {
		if lost := e.unsaid.Swap(0); lost > 0 {
			e.log.Load().Info("spans are exported again", "lost", lost)
		}
		return
	}
	e.lost.Add(int64(n))
	if e.unsaid.Add(int64(n)) == int64(n) {
		e.log.Load().Warn("spans are not exported", "error", err)
	}
}

// notedExporter has its batches noted.
type notedExporter struct {
	sdktrace.SpanExporter
	exports *exports
}

// ExportSpans exports a batch. The processor calls it with one batch at a time.
// An error ends here: passed on it would go to the standard library's log, each
// time.
func (e notedExporter) ExportSpans(ctx context.Context, batch []sdktrace.ReadOnlySpan) error {
	e.exports.note(len(batch), e.SpanExporter.ExportSpans(ctx, batch))
	return nil
}

// ClientTrace is the trace context that a client sent along. It names a span that
// nobody here has seen.
func ClientTrace(header http.Header) trace.SpanContext {
	if header.Get("Traceparent") == "" {
		return trace.SpanContext{}
	}
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), propagation.HeaderCarrier(header)))
}
