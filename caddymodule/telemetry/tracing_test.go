package telemetry

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/userhero/relay/e2e/otlpsink"
)

// TestOtherExportersGetTheSpansOfTheSDK: for example the console exporter.
func TestOtherExportersGetTheSpansOfTheSDK(t *testing.T) {
	t.Setenv("OTEL_TRACES_EXPORTER", "console")
	made, err := NewTracing("test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	_, span := made.Tracer().Start(t.Context(), "never on the console, for it does not end")
	if s, ok := span.(sdktrace.ReadOnlySpan); !ok || s.InstrumentationScope().Name != Scope || !span.SpanContext().IsSampled() {
		t.Errorf("%T %+v is no span of the SDK's that would be exported", span, span)
	}
	if err := made.Shutdown(); err != nil {
		t.Error(err)
	}
}

// TestTheEnvironmentChoosesTheProtocol: the variable for traces takes precedence over
// the general one. An unknown protocol is an error, and nothing is exported.
func TestTheEnvironmentChoosesTheProtocol(t *testing.T) {
	sink, err := otlpsink.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sink.Close)
	for i, c := range []struct{ environment, endpoint string }{
		{"", sink.HTTP},
		{"OTEL_TRACES_EXPORTER=otlp OTEL_EXPORTER_OTLP_PROTOCOL=grpc", sink.GRPC},
		{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf OTEL_EXPORTER_OTLP_PROTOCOL=grpc", sink.HTTP},
	} {
		t.Run(c.environment, func(t *testing.T) {
			setAll(t, c.environment)
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.endpoint)
			made, err := NewTracing("test", slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			endSome(made, 1)
			if err := made.Shutdown(); err != nil {
				t.Error(err)
			}
			if all := sink.All(); len(all) != i+1 {
				t.Errorf("%d spans have come, want %d", len(all), i+1)
			}
		})
	}
	for _, unknown := range []string{"carrier pigeon", "http/json"} {
		t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", unknown)
		if _, err := NewTracing("test", slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("spans are exported by the protocol %s", unknown)
		}
	}
}

func TestBatchesAreAsTheEnvironmentSays(t *testing.T) {
	usual := sdktrace.BatchSpanProcessorOptions{MaxQueueSize: defaultQueue, MaxExportBatchSize: 512, BatchTimeout: 5 * time.Second, ExportTimeout: 30 * time.Second}
	for _, c := range []struct {
		environment string
		want        sdktrace.BatchSpanProcessorOptions
	}{
		{"", usual},
		{"OTEL_BSP_MAX_QUEUE_SIZE=100 OTEL_BSP_MAX_EXPORT_BATCH_SIZE=10 OTEL_BSP_SCHEDULE_DELAY=20 OTEL_BSP_EXPORT_TIMEOUT=1000",
			sdktrace.BatchSpanProcessorOptions{MaxQueueSize: 100, MaxExportBatchSize: 10, BatchTimeout: 20 * time.Millisecond, ExportTimeout: time.Second}},
		{"OTEL_BSP_MAX_QUEUE_SIZE=many OTEL_BSP_MAX_EXPORT_BATCH_SIZE=-1 OTEL_BSP_SCHEDULE_DELAY=0 OTEL_BSP_EXPORT_TIMEOUT=1s", usual},
	} {
		t.Run(c.environment, func(t *testing.T) {
			setAll(t, c.environment)
			if got := batchesFromEnvironment(); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}

// setAll sets variables that are written as in a shell: NAME=value NAME=value.
func setAll(t *testing.T, environment string) {
	t.Helper()
	for pair := range strings.FieldsSeq(environment) {
		name, value, _ := strings.Cut(pair, "=")
		t.Setenv(name, value)
	}
}

func TestSpansAreMadeOnlyWhereTheEnvironmentAsks(t *testing.T) {
	for _, c := range []struct {
		environment string
		wanted      bool
	}{
		{"", false},
		{"OTEL_SERVICE_NAME=relay OTEL_TRACES_SAMPLER=always_on OTEL_EXPORTER_OTLP_PROTOCOL=grpc", false},
		{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=http://127.0.0.1:1", false},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1", true},
		{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://127.0.0.1:1/v1/traces", true},
		{"OTEL_TRACES_EXPORTER=otlp", true},
		{"OTEL_TRACES_EXPORTER=console", true},
		{"OTEL_TRACES_EXPORTER=none OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1", false},
		{"OTEL_SDK_DISABLED=TRUE OTEL_TRACES_EXPORTER=otlp", false},
		{"OTEL_SDK_DISABLED=1 OTEL_TRACES_EXPORTER=otlp", true}, // the specification allows only "true"
	} {
		t.Run(c.environment, func(t *testing.T) {
			setAll(t, c.environment)
			if got := Wanted(); got != c.wanted {
				t.Errorf("wanted: %t", got)
			}
		})
	}
}
