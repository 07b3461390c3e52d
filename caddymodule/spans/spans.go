// Package spans makes OpenTelemetry spans and exports them by OTLP, at a fraction
// of what the SDK takes for it: what is said of a span is encoded as it is said,
// and from its end on it is bytes in a batch. Nothing is copied for a snapshot, no
// message is built, and nothing waits for export that the garbage collector would
// have to look at.
//
// What is sent is what the SDK and its exporter would send, with its clients, so
// that every OTEL_EXPORTER_OTLP_* variable, compression and retries are theirs;
// samplers and limits are the SDK's too. It knows nothing of the relay.
//
// What it leaves out of the SDK: spans that are recorded but not sampled, panics
// as events, and more than one instrumentation scope.
package spans

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/embedded"
	"go.opentelemetry.io/otel/trace/noop"
)

// Options are what a tracer works with. All are needed but IDs.
type Options struct {
	Client   otlptrace.Client
	Resource *resource.Resource
	Scope    instrumentation.Scope
	Sampler  sdktrace.Sampler
	Limits   sdktrace.SpanLimits
	Batching Batching
	// Exported is told of each batch: how many spans, and why they are lost
	// where they are. One call at a time.
	Exported func(n int, err error)
	// IDs are random unless given.
	IDs sdktrace.IDGenerator
}

// Tracer makes spans. It is safe for concurrent use.
type Tracer struct {
	embedded.Tracer

	sampler sdktrace.Sampler
	limits  sdktrace.SpanLimits
	ids     sdktrace.IDGenerator
	queue   *queue
}

// New starts the client and a tracer, which ends with Shutdown.
func New(ctx context.Context, o Options) (*Tracer, error) {
	if o.IDs == nil {
		o.IDs = random{}
	}
	q, err := newQueue(ctx, o)
	if err != nil {
		return nil, err
	}
	return &Tracer{sampler: o.Sampler, limits: o.Limits, ids: o.IDs, queue: q}, nil
}

// Dropped is how many spans found no room to wait for export.
func (t *Tracer) Dropped() int64 { return t.queue.dropped.Load() }

// Shutdown exports what has ended, as far as the context allows. Spans that end
// later are dropped.
func (t *Tracer) Shutdown(ctx context.Context) error { return t.queue.shutdown(ctx) }

// Start implements trace.Tracer.
func (t *Tracer) Start(ctx context.Context, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	config := trace.NewSpanStartConfig(options...)
	var parent trace.SpanContext
	if config.NewRoot() {
		ctx = trace.ContextWithSpanContext(ctx, parent)
	} else {
		parent = trace.SpanContextFromContext(ctx)
	}
	id := trace.SpanContextConfig{TraceID: parent.TraceID(), TraceFlags: parent.TraceFlags() &^ trace.FlagsSampled}
	if id.TraceID.IsValid() {
		id.SpanID = t.ids.NewSpanID(ctx, id.TraceID)
	} else {
		id.TraceID, id.SpanID = t.ids.NewIDs(ctx)
	}
	sampled := t.sampler.ShouldSample(sdktrace.SamplingParameters{
		ParentContext: ctx, TraceID: id.TraceID, Name: name, Kind: config.SpanKind(), Attributes: config.Attributes(), Links: config.Links(),
	})
	id.TraceState = sampled.Tracestate
	if sampled.Decision != sdktrace.RecordAndSample {
		ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(id))
		return ctx, trace.SpanFromContext(ctx)
	}
	id.TraceFlags |= trace.FlagsSampled

	start := config.Timestamp()
	if start.IsZero() {
		start = time.Now()
	}
	s := &span{tracer: t, sc: trace.NewSpanContext(id), r: records.Get().(*record)}
	s.r.begin(s.sc, parent, name, config.SpanKind(), start)
	for _, o := range options {
		if p, ok := o.(*prepared); ok {
			s.r.add(&t.limits, p)
		}
	}
	for _, l := range config.Links() {
		s.r.link(&t.limits, l)
	}
	s.r.set(&t.limits, sampled.Attributes)
	s.r.set(&t.limits, config.Attributes())
	return trace.ContextWithSpan(ctx, s), s
}

// prepared are attributes that are encoded once, for many spans.
type prepared struct {
	trace.SpanStartOption
	record
	plain []attribute.KeyValue
}

// Experimental has trace.NewSpanStartConfig leave it out.
func (*prepared) Experimental() {}

// Prepare makes an option of attributes that many spans start with. Samplers do
// not see them.
func (t *Tracer) Prepare(attributes ...attribute.KeyValue) trace.SpanStartOption {
	p := &prepared{plain: slices.Clone(attributes)}
	p.set(&t.limits, attributes)
	return p
}

// random makes ids as the SDK does.
type random struct{}

// NewIDs implements sdktrace.IDGenerator.
func (random) NewIDs(context.Context) (t trace.TraceID, s trace.SpanID) {
	for !t.IsValid() {
		binary.NativeEndian.PutUint64(t[:8], rand.Uint64()) //nolint:gosec // ids are no secrets
		binary.NativeEndian.PutUint64(t[8:], rand.Uint64()) //nolint:gosec // likewise
	}
	return t, random{}.NewSpanID(context.Background(), t)
}

// NewSpanID implements sdktrace.IDGenerator.
func (random) NewSpanID(context.Context, trace.TraceID) (s trace.SpanID) {
	for !s.IsValid() {
		binary.NativeEndian.PutUint64(s[:], rand.Uint64()) //nolint:gosec // ids are no secrets
	}
	return s
}

// span is one span that is sampled. What it records is taken away at its end, so
// that what is said of it later reaches nothing.
type span struct {
	embedded.Span

	tracer *Tracer
	sc     trace.SpanContext
	ended  atomic.Bool

	mu sync.Mutex
	// mu guards everything declared below.
	r *record // nil once it has ended
}

// recording calls f with what the span records, unless it has ended.
func (s *span) recording(f func(*record)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.r != nil {
		f(s.r)
	}
}

// End implements trace.Span.
func (s *span) End(options ...trace.SpanEndOption) {
	if s.ended.Swap(true) {
		return
	}
	s.mu.Lock()
	r := s.r
	s.r = nil
	s.mu.Unlock()
	config := trace.NewSpanEndConfig(options...)
	end := config.Timestamp()
	if end.IsZero() {
		end = r.now()
	}
	r.end(end)
	s.tracer.queue.add(r.encoded)
	r.release()
}

// SpanContext implements trace.Span.
func (s *span) SpanContext() trace.SpanContext { return s.sc }

// IsRecording implements trace.Span.
func (s *span) IsRecording() bool { return !s.ended.Load() }

// SetAttributes implements trace.Span.
func (s *span) SetAttributes(attributes ...attribute.KeyValue) {
	s.recording(func(r *record) { r.set(&s.tracer.limits, attributes) })
}

// AddEvent implements trace.Span.
func (s *span) AddEvent(name string, options ...trace.EventOption) {
	s.recording(func(r *record) {
		if len(options) == 0 {
			r.event(&s.tracer.limits, name, r.now(), nil)
			return
		}
		config := trace.NewEventConfig(options...)
		r.event(&s.tracer.limits, name, config.Timestamp(), config.Attributes())
	})
}

// AddLink implements trace.Span.
func (s *span) AddLink(l trace.Link) { s.recording(func(r *record) { r.link(&s.tracer.limits, l) }) }

// RecordError implements trace.Span.
func (s *span) RecordError(err error, options ...trace.EventOption) {
	if err != nil {
		s.AddEvent(semconv.ExceptionEventName, append(options, trace.WithAttributes(
			semconv.ExceptionType(fmt.Sprintf("%T", err)), semconv.ExceptionMessage(err.Error())))...)
	}
}

// SetStatus implements trace.Span.
func (s *span) SetStatus(code codes.Code, description string) {
	s.recording(func(r *record) {
		if r.status > code {
			return // Ok is final, and Unset undoes nothing
		}
		if r.status, r.description = code, ""; code == codes.Error {
			r.description = description
		}
	})
}

// SetName implements trace.Span.
func (s *span) SetName(name string) { s.recording(func(r *record) { r.name = name }) }

// TracerProvider implements trace.Span. Nobody but the holder of the tracer makes
// spans with it.
func (s *span) TracerProvider() trace.TracerProvider { return noop.NewTracerProvider() }

// Interface guards
var (
	_ trace.Tracer         = (*Tracer)(nil)
	_ trace.Span           = (*span)(nil)
	_ sdktrace.IDGenerator = random{}
)
