package relay

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/deliver"
)

// The spans of one event. A retry comes minutes or days after the trace it
// belongs to has been looked at and forgotten, so it is a trace of its own that
// links back; an attempt that comes at once is a child.
//
//	request ──► send feedback ──► process feedback ──► POST ──► the receiver's
//	(Caddy's)        ▲                   ▲
//	                 ╎ link              ╎ link
//	                 └╌╌╌╌╌╌╌╌╌╌╌╌╌ process feedback ──► POST
//	                                (a retry, a new root)
//
// Names and attributes are those of OpenTelemetry's semantic conventions 1.43.0:
// for messaging (in development) and for HTTP clients (stable). What has no name
// there begins with "userhero.".
const (
	spanSend    = "send feedback"
	spanProcess = "process feedback"

	// maxTraceState is what every vendor must carry on: W3C Trace Context §3.3.1.5.
	maxTraceState = 512
)

var (
	messagingSystem = semconv.MessagingSystemKey.String("userhero")
	destination     = semconv.MessagingDestinationName("feedback")
	sendOperation   = []attribute.KeyValue{messagingSystem, destination, semconv.MessagingOperationName("send"), semconv.MessagingOperationTypeSend}
	processing      = []attribute.KeyValue{messagingSystem, destination, semconv.MessagingOperationName("process"), semconv.MessagingOperationTypeProcess}

	producer = trace.WithSpanKind(trace.SpanKindProducer)
	consumer = trace.WithSpanKind(trace.SpanKindConsumer)
)

// startOptions are what spans of a kind start with that have attributes in common.
func startOptions(kind trace.SpanStartOption, attributes []attribute.KeyValue) []trace.SpanStartOption {
	return []trace.SpanStartOption{kind, trace.WithAttributes(attributes...)}
}

// describeProcess are the attributes that all spans of a webhook's attempts have.
func describeProcess(webhook string) []attribute.KeyValue {
	return append(processing[:len(processing):len(processing)], semconv.MessagingDestinationSubscriptionName(webhook))
}

// rooms lend room for attributes that a span is given at once: it copies them.
var rooms = sync.Pool{New: func() any { return new([8]attribute.KeyValue) }}

// startSend starts the span of an acceptance: a child of the request's span
// where the context has one. Otherwise whoever submitted is linked and no more:
// anybody can send a traceparent, and thousands of submissions must not end up
// in one trace because somebody copied a header.
//
// Without a tracer the span is nil and nothing is allocated.
func (r *Relay) startSend(ctx context.Context, a *Acceptance) (context.Context, trace.Span) {
	if r.tracer == nil {
		return ctx, nil
	}
	options := r.producing
	if a.Client.IsValid() && !trace.SpanContextFromContext(ctx).IsValid() {
		options = append(options[:len(options):len(options)], linked(a.Client))
	}
	return r.tracer.Start(ctx, spanSend, options...)
}

// endSend ends it with what was submitted and what became of it.
func endSend(span trace.Span, a *Acceptance, receipt *queue.Receipt, webhooks int, err error) {
	if span == nil {
		return
	}
	if span.IsRecording() {
		room := rooms.Get().(*[8]attribute.KeyValue)
		attributes := append(room[:0],
			semconv.MessagingMessageConversationID(a.Feedback.ID),
			semconv.MessagingMessageBodySize(len(a.Body)),
			attribute.String("userhero.event.type", string(a.Type)),
		)
		switch {
		case err != nil:
			deliver.FailSpan(span, classOfStore(err))
		case receipt.Replayed:
			attributes = append(attributes, semconv.MessagingMessageID(receipt.Event.ID.String()), attribute.Bool("userhero.event.replayed", true))
		default:
			attributes = append(attributes, semconv.MessagingMessageID(receipt.Event.ID.String()), attribute.Int("userhero.event.deliveries", webhooks))
		}
		span.SetAttributes(attributes...)
		rooms.Put(room)
	}
	span.End()
}

// startProcess starts the span of one attempt. The first of a delivery is a
// child of the event's creation; each later one is a new root, linked to the
// creation and to the attempt before, and kept by the sampler where one of the
// two was. The id is the delivery's in words.
func (w *webhook) startProcess(ctx context.Context, t task, id string) (context.Context, trace.Span) {
	if w.relay.tracer == nil {
		return ctx, nil
	}
	d, e := &t.lease.Delivery, &t.lease.Event
	creation := spanContext(e.Trace)
	options := w.consuming
	if d.Attempts == 0 {
		ctx = trace.ContextWithSpanContext(ctx, creation)
	} else {
		options = append(options[:len(options):len(options)], trace.WithNewRoot(), linked(creation), linked(w.attemptBefore(ctx, d.ID)))
	}
	ctx, span := w.relay.tracer.Start(ctx, spanProcess, options...)
	if d.Attempts == 0 {
		span.AddLink(trace.Link{SpanContext: creation}) // no sampler asks a child for it
	}
	if span.IsRecording() {
		room := rooms.Get().(*[8]attribute.KeyValue)
		span.SetAttributes(append(room[:0],
			semconv.MessagingMessageID(d.ID.Event.String()),
			semconv.MessagingMessageConversationID(d.Feedback.ID),
			semconv.MessagingMessageBodySize(len(e.Body)),
			attribute.String("userhero.event.type", d.Type),
			attribute.String("userhero.delivery.id", id),
			attribute.Int("userhero.attempt", d.Rung+1),
		)...)
		rooms.Put(room)
	}
	return ctx, span
}

// startTest starts the span of a test send: nothing was created that it could
// belong to but the request that asked for it.
func startTest(ctx context.Context, tracer trace.Tracer, webhook, id string) (context.Context, trace.Span) {
	if tracer == nil {
		return ctx, nil
	}
	ctx, span := tracer.Start(ctx, spanProcess, consumer)
	if span.IsRecording() {
		span.SetAttributes(describeProcess(webhook)...)
		span.SetAttributes(attribute.String("userhero.delivery.id", id), attribute.Bool("userhero.test", true))
	}
	return ctx, span
}

// linked links a span to another; to none where that is invalid.
func linked(sc trace.SpanContext) trace.SpanStartOption {
	return trace.WithLinks(trace.Link{SpanContext: sc})
}

// attemptBefore is the span of a delivery's last attempt, or none: a log that
// cannot be read costs a link and nothing else.
func (w *webhook) attemptBefore(ctx context.Context, id queue.DeliveryID) trace.SpanContext {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	attempts, err := w.relay.queue.Attempts(ctx, id)
	if err != nil || len(attempts) == 0 {
		return trace.SpanContext{}
	}
	last := &attempts[len(attempts)-1]
	return spanContext(queue.TraceContext{TraceID: last.TraceID, SpanID: last.SpanID, Flags: last.TraceFlags})
}

// endProcess ends the span of an attempt with what came of it; state 0 is that
// of a test, which leaves none.
func endProcess(span trace.Span, o deliver.Outcome, state queue.State, next time.Time) {
	if span == nil {
		return
	}
	if span.IsRecording() {
		if !o.OK {
			deliver.FailSpan(span, o.Class)
		}
		room := rooms.Get().(*[8]attribute.KeyValue)
		attributes := room[:0]
		if !o.Canceled && state != 0 {
			attributes = append(attributes, attribute.String("userhero.delivery.state", state.String()))
		}
		if !next.IsZero() {
			attributes = append(attributes, attribute.String("userhero.delivery.next_attempt", next.UTC().Format(time.RFC3339Nano)))
		}
		span.SetAttributes(attributes...)
		rooms.Put(room)
	}
	span.End()
}

// traceContext is what the store keeps of a span's context. Baggage is not part
// of it: what a visitor's page puts there is nobody's business days later.
func traceContext(sc trace.SpanContext) queue.TraceContext {
	if !sc.IsValid() {
		return queue.TraceContext{}
	}
	t := queue.TraceContext{TraceID: sc.TraceID(), SpanID: sc.SpanID(), Flags: byte(sc.TraceFlags())}
	if state := sc.TraceState(); state.Len() > 0 {
		if s := state.String(); len(s) <= maxTraceState {
			t.State = s
		}
	}
	return t
}

// spanContext is a stored context as a span's, invalid where nothing is stored.
func spanContext(t queue.TraceContext) trace.SpanContext {
	state, err := trace.ParseTraceState(t.State)
	if err != nil {
		state = trace.TraceState{} // the ids are still worth something
	}
	return trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: t.TraceID, SpanID: t.SpanID, TraceFlags: trace.TraceFlags(t.Flags), TraceState: state, Remote: true,
	})
}
