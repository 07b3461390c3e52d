package relay

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/deliver"
)

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
		room := attributeBuffers.Get().(*[8]attribute.KeyValue)
		span.SetAttributes(append(room[:0],
			semconv.MessagingMessageID(d.ID.Event.String()),
			semconv.MessagingMessageConversationID(d.Feedback.ID),
			semconv.MessagingMessageBodySize(len(e.Body)),
			attribute.String("userhero.event.type", d.Type),
			attribute.String("userhero.delivery.id", id),
			attribute.Int("userhero.attempt", d.Rung+1),
		)...)
		attributeBuffers.Put(room)
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
		room := attributeBuffers.Get().(*[8]attribute.KeyValue)
		attributes := room[:0]
		if !o.Canceled && state != 0 {
			attributes = append(attributes, attribute.String("userhero.delivery.state", state.String()))
		}
		if !next.IsZero() {
			attributes = append(attributes, attribute.String("userhero.delivery.next_attempt", next.UTC().Format(time.RFC3339Nano)))
		}
		span.SetAttributes(attributes...)
		attributeBuffers.Put(room)
	}
	span.End()
}
