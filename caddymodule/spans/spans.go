// Package spans makes OpenTelemetry spans and exports them by OTLP, at a fraction
// of what the SDK takes for it: a span is encoded when it ends, and from then on
// it is bytes in a batch. Nothing is copied for a snapshot, no message is built,
// and nothing waits for export that the garbage collector would have to look at.
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
	"sync"
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

	scope   instrumentation.Scope
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
	return &Tracer{scope: o.Scope, sampler: o.Sampler, limits: o.Limits, ids: o.IDs, queue: q}, nil
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

	r := records.Get().(*record)
	r.name, r.kind, r.parent, r.start = name, trace.ValidateSpanKind(config.SpanKind()), parent, config.Timestamp()
	if r.start.IsZero() {
		r.start = time.Now()
	}
	s := &span{tracer: t, sc: trace.NewSpanContext(id), r: r}
	for _, l := range config.Links() {
		r.link(&t.limits, l)
	}
	r.set(&t.limits, sampled.Attributes)
	r.set(&t.limits, config.Attributes())
	return trace.ContextWithSpan(ctx, s), s
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
	s.mu.Lock()
	r := s.r
	s.r = nil
	s.mu.Unlock()
	if r == nil {
		return
	}
	config := trace.NewSpanEndConfig(options...)
	end := config.Timestamp()
	if end.IsZero() {
		end = r.start.Add(time.Since(r.start)) // as far from the start as it was, whatever the clock was set to meanwhile
	}
	r.encoded = appendSpan(r.encoded[:0], s.sc, r, end, s.tracer.limits.AttributeValueLengthLimit)
	s.tracer.queue.add(r.encoded)
	r.release()
}

// SpanContext implements trace.Span.
func (s *span) SpanContext() trace.SpanContext { return s.sc }

// IsRecording implements trace.Span.
func (s *span) IsRecording() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.r != nil
}

// SetAttributes implements trace.Span.
func (s *span) SetAttributes(attributes ...attribute.KeyValue) {
	s.recording(func(r *record) { r.set(&s.tracer.limits, attributes) })
}

// AddEvent implements trace.Span.
func (s *span) AddEvent(name string, options ...trace.EventOption) {
	s.recording(func(r *record) {
		config := trace.NewEventConfig(options...)
		e := sdktrace.Event{Name: name, Time: config.Timestamp()}
		e.Attributes, e.DroppedAttributeCount = atMost(s.tracer.limits.AttributePerEventCountLimit, config.Attributes())
		r.events, r.lostEvents = push(r.events, r.lostEvents, s.tracer.limits.EventCountLimit, e)
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

// record is what a span records until it ends; then it serves another.
type record struct {
	name        string
	kind        trace.SpanKind
	parent      trace.SpanContext
	start       time.Time
	status      codes.Code
	description string
	attributes  []attribute.KeyValue // no key twice
	events      []sdktrace.Event
	links       []sdktrace.Link
	// what the limits have cost
	lostAttributes, lostEvents, lostLinks int

	encoded []byte
}

var records = sync.Pool{New: func() any { return new(record) }}

// maxKept bounds what a record keeps for the next span, in bytes and in entries.
const maxKept = 4 << 10

func (r *record) release() {
	if cap(r.encoded) > maxKept || cap(r.attributes)+cap(r.events)+cap(r.links) > maxKept/64 {
		return
	}
	clear(r.attributes)
	clear(r.events)
	clear(r.links)
	*r = record{attributes: r.attributes[:0], events: r.events[:0], links: r.links[:0], encoded: r.encoded[:0]}
	records.Put(r)
}

// set sets attributes; of a key that comes twice the later value counts.
func (r *record) set(limits *sdktrace.SpanLimits, attributes []attribute.KeyValue) {
	limit := limits.AttributeCountLimit
next:
	for i := range attributes {
		a := &attributes[i]
		for j := range r.attributes {
			if r.attributes[j].Key == a.Key {
				r.attributes[j].Value = a.Value
				continue next
			}
		}
		if !a.Valid() || limit >= 0 && len(r.attributes) >= limit {
			r.lostAttributes++
			continue
		}
		r.attributes = append(r.attributes, *a)
	}
}

func (r *record) link(limits *sdktrace.SpanLimits, l trace.Link) {
	if !l.SpanContext.IsValid() && len(l.Attributes) == 0 && l.SpanContext.TraceState().Len() == 0 {
		return // to nowhere
	}
	made := sdktrace.Link{SpanContext: l.SpanContext}
	made.Attributes, made.DroppedAttributeCount = atMost(limits.AttributePerLinkCountLimit, l.Attributes)
	r.links, r.lostLinks = push(r.links, r.lostLinks, limits.LinkCountLimit, made)
}

// atMost are the first attributes, and how many are left out; a negative limit is
// none.
func atMost(limit int, attributes []attribute.KeyValue) (kept []attribute.KeyValue, lost int) {
	if limit < 0 || len(attributes) <= limit {
		return attributes, 0
	}
	return attributes[:limit], len(attributes) - limit
}

// push adds to a list that gives up its oldest entry beyond the limit.
func push[T any](list []T, lost, limit int, entry T) ([]T, int) {
	switch {
	case limit == 0:
		return list, lost + 1
	case limit > 0 && len(list) == limit:
		copy(list, list[1:])
		list[limit-1] = entry
		return list, lost + 1
	}
	return append(list, entry), lost
}

// Interface guards
var (
	_ trace.Tracer         = (*Tracer)(nil)
	_ trace.Span           = (*span)(nil)
	_ sdktrace.IDGenerator = random{}
)
