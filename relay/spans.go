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

// startProcess starts the span of one attempt. The span of a delivery's first attempt
// is a child of the span that created the event. Each later attempt starts a new trace,
// linked to the creation and to the attempt before; it is sampled if one of the two
// was. The id is the delivery's, as text.
func (w *webhook) startProcess(ctx context.Context, t task, id string) (context.Context, trace.Span) {
	if w.relay.tracer == nil {
		return ctx, nil
	}
	d, e := &t.lease.Delivery, &t.lease.Event
	creation := spanContext(e.Trace)
	options := w.named.Load().consuming
	if d.Attempts == 0 {
		ctx = trace.ContextWithSpanContext(ctx, creation)
	} else {
		options = append(options[:len(options):len(options)], trace.WithNewRoot(), linked(creation), linked(w.attemptBefore(ctx, d.ID)))
	}
	ctx, span := w.relay.tracer.Start(ctx, spanProcess, options...)
	if d.Attempts == 0 {
		span.AddLink(trace.Link{SpanContext: creation}) // a sampler is not called for a child
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

// startTest starts the span of a test send. Its only possible parent is the request
// that asked for the test.
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

// attemptBefore returns the span of the delivery's last attempt. If the log cannot be
// read, it returns an invalid context, and only a link is missing.
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

// endProcess ends the span of an attempt and records its result. If state is 0, the
// attempt was a test, which has no state.
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
