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

// attemptSpan is the span of one attempt. Its attributes are set in one call when it
// ends: the SDK copies all of them each time that some are added. Without a tracer it
// is zero.
type attemptSpan struct {
	trace.Span
	naming *naming      // of the webhook
	id     string       // of the delivery
	lease  *queue.Lease // nil for a test send
}

// startProcess starts the span of one attempt. The span of a delivery's first attempt
// is a child of the span that created the event. Each later attempt starts a new trace,
// linked to the creation and to the attempt before; it is sampled if one of the two
// was. The id is the delivery's, as text.
func (w *webhook) startProcess(ctx context.Context, t task, id string) (context.Context, attemptSpan) {
	if w.relay.tracer == nil {
		return ctx, attemptSpan{}
	}
	d := &t.lease.Delivery
	creation := spanContext(t.lease.Event.Trace)
	options := consuming
	if d.Attempts == 0 {
		ctx = trace.ContextWithSpanContext(ctx, creation)
	} else {
		options = append(options[:len(options):len(options)], trace.WithNewRoot(), linked(creation), linked(w.attemptBefore(ctx, d.ID)))
	}
	ctx, span := w.relay.tracer.Start(ctx, spanProcess, options...)
	if d.Attempts == 0 {
		span.AddLink(trace.Link{SpanContext: creation}) // a sampler is not called for a child
	}
	return ctx, attemptSpan{span, w.named.Load(), id, t.lease}
}

// startTest starts the span of a test send. Its only possible parent is the request
// that asked for the test.
func startTest(ctx context.Context, tracer trace.Tracer, webhook, id string) (context.Context, attemptSpan) {
	if tracer == nil {
		return ctx, attemptSpan{}
	}
	ctx, span := tracer.Start(ctx, spanProcess, consuming...)
	return ctx, attemptSpan{Span: span, naming: newNaming(webhook), id: id}
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

// end ends the span and records the attempt and its result. If state is 0, the attempt
// was a test, which has no state.
func (s attemptSpan) end(o deliver.Outcome, state queue.State, next time.Time) {
	if s.Span == nil {
		return
	}
	if s.IsRecording() {
		if !o.OK {
			deliver.FailSpan(s.Span, o.Class)
		}
		room := attributeBuffers.Get().(*attributeBuffer)
		attributes := append(append(room[:0], s.naming.described...), attribute.String("userhero.delivery.id", s.id))
		if s.lease == nil {
			attributes = append(attributes, attribute.Bool("userhero.test", true))
		} else {
			d := &s.lease.Delivery
			attributes = append(attributes,
				semconv.MessagingMessageID(d.ID.Event.String()),
				semconv.MessagingMessageConversationID(d.Feedback.ID),
				attribute.String("userhero.event.type", d.Type),
				attribute.Int("userhero.attempt", d.Rung+1),
			)
		}
		if !o.Canceled && state != 0 {
			attributes = append(attributes, attribute.String("userhero.delivery.state", state.String()))
		}
		if !next.IsZero() {
			attributes = append(attributes, attribute.String("userhero.delivery.next_attempt", next.UTC().Format(time.RFC3339Nano)))
		}
		s.SetAttributes(attributes...)
		attributeBuffers.Put(room)
	}
	s.End()
}
