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
	// Scope is the instrumentation scope of the relay's spans.
	Scope = "github.com/userhero/relay"
	// serviceName is the default of OTEL_SERVICE_NAME.
	serviceName = "userhero-relay"
	// flushGrace is the longest time that Shutdown exports the remaining spans.
	flushGrace = 3 * time.Second
	// defaultQueue is the default of OTEL_BSP_MAX_QUEUE_SIZE: how many ended spans may
	// wait for export. The SDK's default of 2,048 is too small: at full speed the
	// relay makes that many in 50 ms.
	defaultQueue = 16384
)

// Tracing makes and exports spans. The standard OTEL_* variables configure it. A relay
// without spans has a nil Tracing, on which Tracer and Lost return zero values and
// WithClient changes nothing.
type Tracing struct {
	tracer   trace.Tracer
	shutdown func(context.Context) error
	exports  *exports
}

// Wanted reports whether the environment asks for spans: it must name an exporter or
// an OTLP endpoint for traces. Without either, nothing is exported, although the OTLP
// exporter has a default endpoint.
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

// NewTracing starts the export of spans; version is the relay's. It returns an error if
// the environment names an unknown exporter or protocol. If a variable for sampling or
// for the resource cannot be read, it logs that and uses the default.
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

// export returns a Tracing whose spans go to exporter.
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

// batchesFromEnvironment reads the OTEL_BSP_* variables. It ignores a value that is not
// a positive number; the SDK would use it.
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

// Tracer returns the tracer for the relay's spans, or nil if no spans are made.
func (t *Tracing) Tracer() trace.Tracer {
	if t == nil {
		return nil
	}
	return t.tracer
}

// Lost returns the number of spans that ended and were not exported, by reason
// ("queue_full" or "not_exported"), or nil if no spans are made.
func (t *Tracing) Lost() map[string]int64 {
	if t == nil {
		return nil
	}
	return map[string]int64{"queue_full": t.exports.dropped.Load(), "not_exported": t.exports.lost.Load()}
}

// SetLogger sets the logger for messages about failed exports.
func (t *Tracing) SetLogger(log *slog.Logger) { t.exports.log.Store(log) }

// Shutdown exports the remaining spans. After three seconds it stops every export, and
// returns an error if spans were lost.
func (t *Tracing) Shutdown() error {
	ctx, cancel := context.WithTimeout(context.Background(), flushGrace)
	defer cancel()
	defer t.exports.cutOff()
	if err := t.shutdown(ctx); err != nil {
		return fmt.Errorf("exporting the last spans: %w", err)
	}
	return nil
}

// WithClient returns ctx with the trace context in the header of a client's request, as
// that of a remote span, unless ctx has a span.
func (t *Tracing) WithClient(ctx context.Context, header http.Header) context.Context {
	if t == nil || trace.SpanContextFromContext(ctx).IsValid() {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(header))
}
