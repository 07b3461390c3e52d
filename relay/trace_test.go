package relay

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
)

// recording returns a tracer and an exporter that has each span when it ends.
func recording(t *testing.T) (trace.Tracer, *tracetest.InMemoryExporter) {
	t.Helper()
	spans := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	t.Cleanup(func() {
		if err := provider.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return provider.Tracer("test"), spans
}

func attributeOf(s tracetest.SpanStub, key attribute.Key) string {
	for _, a := range s.Attributes {
		if a.Key == key {
			return a.Value.String()
		}
	}
	return ""
}

// TestStoreErrorsAreClassesOfTheSendSpan: if an event is not stored, its span has the
// error's class.
func TestStoreErrorsAreClassesOfTheSendSpan(t *testing.T) {
	t.Parallel()
	tracer, spans := recording(t)
	q := memqueue.New(memqueue.Options{})
	r := New(Options{Queue: q, Tracer: tracer})
	if err := q.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Accept(t.Context(), queue.Entry{Type: string(event.Created), Feedback: queue.FeedbackID{ID: "fb"}, Body: []byte("{}")}); !errors.Is(err, queue.ErrClosed) {
		t.Fatal(err)
	}
	if s := spans.GetSpans(); len(s) != 1 || s[0].Status.Code != codes.Error || attributeOf(s[0], "error.type") != "closed" {
		t.Errorf("%+v", s)
	}
}

// TestTraceContextIsStoredWithTheEvent: the ids, the flags and a bounded tracestate are
// stored, also if tracing is off.
func TestTraceContextIsStoredWithTheEvent(t *testing.T) {
	t.Parallel()
	r := New(Options{Queue: memqueue.New(memqueue.Options{})})
	for _, c := range []struct{ state, want string }{
		{"vendor=opaque", "vendor=opaque"},
		{"long=" + strings.Repeat("x", 250) + ",longer=" + strings.Repeat("y", 249), "long=" + strings.Repeat("x", 250) + ",longer=" + strings.Repeat("y", 249)}, // 512 bytes
		{"long=" + strings.Repeat("x", 250) + ",longer=" + strings.Repeat("y", 250), ""},
	} {
		state, err := trace.ParseTraceState(c.state)
		if err != nil {
			t.Fatal(err)
		}
		sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled, TraceState: state})
		receipt, err := r.Accept(trace.ContextWithSpanContext(t.Context(), sc), queue.Entry{Type: string(event.Created), Feedback: queue.FeedbackID{ID: event.NewID(time.Now())}, Body: []byte("{}")})
		if err != nil {
			t.Fatal(err)
		}
		stored, err := r.Queue().Event(t.Context(), receipt.Event.ID)
		if want := (queue.TraceContext{TraceID: [16]byte{1}, SpanID: [8]byte{2}, Flags: 1, State: c.want}); err != nil || stored.Trace != want {
			t.Errorf("of a tracestate of %d bytes %+v is stored, want %+v (%v)", len(c.state), stored.Trace, want, err)
		}
		if back := traceContext(spanContext(stored.Trace)); back != stored.Trace {
			t.Errorf("%+v comes back as %+v", stored.Trace, back)
		}
	}
}

// TestTracingOffAllocatesNothing: a submission allocates nothing beyond the request's
// own context.
func TestTracingOffAllocatesNothing(t *testing.T) {
	r := New(Options{Queue: memqueue.New(memqueue.Options{})})
	sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	for what, ctx := range map[string]context.Context{"without a request's span": t.Context(), "with one": trace.ContextWithSpanContext(t.Context(), sc)} {
		a := &queue.Entry{Type: string(event.Created), Feedback: queue.FeedbackID{ID: "fb"}, Body: []byte("{}")}
		receipt := &queue.Receipt{}
		var stored queue.TraceContext
		allocated := testing.AllocsPerRun(100, func() {
			ctx, span := r.startSend(ctx)
			stored = traceContext(trace.SpanContextFromContext(ctx))
			endSend(span, a, receipt, nil)
		})
		if allocated != 0 {
			t.Errorf("%s: %v allocations", what, allocated)
		}
		if (stored.TraceID != [16]byte{}) != (what == "with one") {
			t.Errorf("%s: %+v is stored", what, stored)
		}
	}
	// Control: with a tracer it does allocate, so the measurement works.
	r.tracer, _ = recording(t)
	if n := testing.AllocsPerRun(100, func() {
		_, span := r.startSend(t.Context())
		span.End()
	}); n == 0 {
		t.Error("a span that costs nothing: what is measured here?")
	}
}
