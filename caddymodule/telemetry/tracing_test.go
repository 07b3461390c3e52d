package telemetry

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/userhero/relay/caddymodule/spans"
)

// TestOtherExportersGetTheSpansOfTheSDK: the console's, for one.
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

// TestTheEnvironmentChoosesTheProtocol: the variable for traces before that for
// everything; what nobody knows is refused and exports nothing.
func TestTheEnvironmentChoosesTheProtocol(t *testing.T) {
	for _, c := range []struct{ environment, client string }{
		{"", "otlptracehttp"},
		{"OTEL_TRACES_EXPORTER=otlp OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "otlptracegrpc"},
		{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "otlptracehttp"},
		{"OTEL_TRACES_EXPORTER=console", "<nil>"},
		{"OTEL_EXPORTER_OTLP_PROTOCOL=http/json", "<nil>"},
	} {
		t.Run(c.environment, func(t *testing.T) {
			setAll(t, c.environment)
			if got := fmt.Sprintf("%T", otlpClient()); !strings.Contains(got, c.client) {
				t.Errorf("the client is a %s, want one of %s", got, c.client)
			}
		})
	}
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier pigeon")
	if _, err := NewTracing("test", slog.New(slog.DiscardHandler)); err == nil {
		t.Error("spans are exported by a protocol that nobody knows")
	}
}

func TestBatchesAreAsTheEnvironmentSays(t *testing.T) {
	usual := spans.Batching{Queue: spanQueue, Batch: 512, Delay: 5 * time.Second, Timeout: 30 * time.Second}
	for _, c := range []struct {
		environment string
		want        spans.Batching
	}{
		{"", usual},
		{"OTEL_BSP_MAX_QUEUE_SIZE=100 OTEL_BSP_MAX_EXPORT_BATCH_SIZE=10 OTEL_BSP_SCHEDULE_DELAY=20 OTEL_BSP_EXPORT_TIMEOUT=1000",
			spans.Batching{Queue: 100, Batch: 10, Delay: 20 * time.Millisecond, Timeout: time.Second}},
		{"OTEL_BSP_MAX_QUEUE_SIZE=many OTEL_BSP_MAX_EXPORT_BATCH_SIZE=-1 OTEL_BSP_SCHEDULE_DELAY=0 OTEL_BSP_EXPORT_TIMEOUT=1s", usual},
	} {
		t.Run(c.environment, func(t *testing.T) {
			setAll(t, c.environment)
			if got := batchingFromEnvironment(); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}

// setAll sets variables that are written as a shell would have them.
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
		{"OTEL_SDK_DISABLED=1 OTEL_TRACES_EXPORTER=otlp", true}, // only "true" is true, says the specification
	} {
		t.Run(c.environment, func(t *testing.T) {
			setAll(t, c.environment)
			if got := Wanted(); got != c.wanted {
				t.Errorf("wanted: %t", got)
			}
		})
	}
}
