package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

const (
	// Scope is the name of the instrumentation scope of the relay's spans.
	Scope = "github.com/userhero/relay"
	// serviceName is the service's name unless OTEL_SERVICE_NAME sets another.
	serviceName = "userhero-relay"
	// flushGrace bounds how long Shutdown exports what is left.
	flushGrace = 3 * time.Second
	// defaultQueue is how many ended spans may wait for export unless
	// OTEL_BSP_MAX_QUEUE_SIZE sets another number. The SDK's default of 2,048 is
	// what the relay makes in 50 ms at full speed.
	defaultQueue = 16384
)

// Tracing exports spans as the standard OTEL_* variables ask. The methods of a nil
// Tracing do nothing: it is what a relay without spans has.
type Tracing struct {
	tracer   trace.Tracer
	shutdown func(context.Context) error
	exports  *exports
}

// Wanted reports whether the environment asks for spans: it names an exporter, or
// an OTLP endpoint for traces. The OTLP exporter has a default endpoint; the relay
// does not use it unless it is asked to export.
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

// NewTracing starts the export of spans; version is the relay's. The error says
// which exporter or protocol of the environment is unknown. Variables that only
// describe or sample are logged if they cannot be read, and have their defaults.
func NewTracing(version string, log *slog.Logger) (*Tracing, error) {
	ctx := context.Background()
	exporter, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return nil, fmt.Errorf("making the exporter: %w", err)
	}
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
	return export(exporter, batchesFromEnvironment(), version, log, sdktrace.WithSampler(sampler), sdktrace.WithResource(described)), nil
}

// export makes spans that leave through an exporter.
func export(exporter sdktrace.SpanExporter, batches sdktrace.BatchSpanProcessorOptions, version string, log *slog.Logger, options ...sdktrace.TracerProviderOption) *Tracing {
	e := newExports(batches.MaxQueueSize, log)
	batcher := sdktrace.NewBatchSpanProcessor(countedExporter{exporter, e}, func(o *sdktrace.BatchSpanProcessorOptions) { *o = batches })
	provider := sdktrace.NewTracerProvider(append(options, sdktrace.WithSpanProcessor(countedProcessor{batcher, e}))...)
	return &Tracing{
		tracer:   provider.Tracer(Scope, trace.WithInstrumentationVersion(version), trace.WithSchemaURL(semconv.SchemaURL)),
		shutdown: provider.Shutdown,
		exports:  e,
	}
}

// batchesFromEnvironment reads OTEL_BSP_*. A value that is not a positive number
// is ignored; the SDK would take it.
func batchesFromEnvironment() sdktrace.BatchSpanProcessorOptions {
	number := func(name string, otherwise int) int {
		if n, err := strconv.Atoi(os.Getenv("OTEL_BSP_" + name)); err == nil && n > 0 {
			return n
		}
		return otherwise
	}
	queue := number("MAX_QUEUE_SIZE", defaultQueue)
	return sdktrace.BatchSpanProcessorOptions{
		MaxQueueSize:       queue,
		MaxExportBatchSize: min(queue, number("MAX_EXPORT_BATCH_SIZE", sdktrace.DefaultMaxExportBatchSize)),
		BatchTimeout:       time.Duration(number("SCHEDULE_DELAY", sdktrace.DefaultScheduleDelay)) * time.Millisecond,
		ExportTimeout:      time.Duration(number("EXPORT_TIMEOUT", sdktrace.DefaultExportTimeout)) * time.Millisecond,
	}
}

// Tracer returns what a relay makes its spans with, or nil.
func (t *Tracing) Tracer() trace.Tracer {
	if t == nil {
		return nil
	}
	return t.tracer
}

// Lost counts the spans that ended and were not exported, by reason, or returns
// nil if no spans are made.
func (t *Tracing) Lost() map[string]int64 {
	if t == nil {
		return nil
	}
	return map[string]int64{"queue_full": t.exports.dropped.Load(), "not_exported": t.exports.lost.Load()}
}

// SetLogger changes where it is logged that exporting fails and works again.
func (t *Tracing) SetLogger(log *slog.Logger) { t.exports.log.Store(log) }

// Shutdown exports what is left. It ends after three seconds, with an error if
// spans are lost; so does an export that is under way then.
func (t *Tracing) Shutdown() error {
	ctx, cancel := context.WithTimeout(context.Background(), flushGrace)
	defer cancel()
	defer t.exports.cutOff()
	if err := t.shutdown(ctx); err != nil {
		return fmt.Errorf("exporting the last spans: %w", err)
	}
	return nil
}

// ClientTrace returns the trace context that a client sent along. It names a span
// that nobody here has seen.
func (t *Tracing) ClientTrace(header http.Header) trace.SpanContext {
	if t == nil || header.Get("Traceparent") == "" {
		return trace.SpanContext{}
	}
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), propagation.HeaderCarrier(header)))
}
