package relay

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/deliver"
	"github.com/userhero/relay/relay/expression"
)

// Acceptance is an event to take in.
type Acceptance struct {
	Type     event.Type
	Feedback queue.FeedbackID
	// Body is the finished document; it must not be changed afterwards. Nil stores
	// no event: see queue.Entry.
	Body []byte
	// Client is the trace context that came with the submission, where nobody
	// has checked it: it is linked. The request's own span is in Accept's context.
	Client trace.SpanContext
	// Replaces must be the feedback's latest event; zero creates the feedback.
	Replaces queue.EventID
	// Key, Origin and Answer say what a repeat is and what it gets: see queue.Entry.
	Key    queue.Key
	Origin [32]byte
	Answer []byte
}

// Accept stores an event with a delivery for each webhook that wants it; when it
// returns, both are on disk, and with them the context of the span that did it,
// or of the span in ctx if no span is made. Errors are the queue's.
func (r *Relay) Accept(ctx context.Context, a Acceptance) (queue.Receipt, error) {
	entry := queue.Entry{
		Type:     string(a.Type),
		Feedback: a.Feedback,
		Created:  time.Now(),
		Body:     a.Body,
		Replaces: a.Replaces,
		Key:      a.Key,
		Origin:   a.Origin,
		Answer:   a.Answer,
	}
	if a.Body == nil {
		return r.queue.Enqueue(ctx, entry)
	}
	webhooks := r.wanting(a)
	ctx, span := r.startSend(ctx, &a)
	entry.Webhooks = webhooks
	entry.Trace = traceContext(trace.SpanContextFromContext(ctx))
	receipt, err := r.queue.Enqueue(ctx, entry)
	endSend(span, &a, &receipt, len(webhooks), err)
	if err == nil && !receipt.Replayed {
		r.observer.Accepted(string(a.Type))
		r.tally.accepted(receipt.Event.Created)
		if r.feed.hasListeners() {
			r.feed.publish(Happening{
				Kind: HappenedAccepted, Event: receipt.Event.ID, Type: string(a.Type), Feedback: a.Feedback, Deliveries: len(webhooks),
			})
		}
	}
	return receipt, err
}

// wanting returns the webhooks that get a delivery of an event. A filter that
// cannot judge the event does not want it; that is counted. No lock is held
// while filters are evaluated.
func (r *Relay) wanting(a Acceptance) []queue.WebhookID {
	r.mu.RLock()
	webhooks := slices.AppendSeq(make([]*webhook, 0, len(r.webhooks)), maps.Values(r.webhooks))
	r.mu.RUnlock()
	doc := expression.NewDocument(a.Body)
	ids := make([]queue.WebhookID, 0, len(webhooks))
	for _, w := range webhooks {
		if !w.enabled() {
			continue
		}
		wanted, err := w.wants(a.Type, doc)
		if err != nil {
			w.filterFailed(err)
		}
		if wanted {
			ids = append(ids, w.id)
		}
	}
	return ids
}

// classOfStore names why an event was not stored.
func classOfStore(err error) string {
	switch {
	case errors.Is(err, queue.ErrFull):
		return "full"
	case errors.Is(err, queue.ErrUnavailable):
		return "unavailable"
	case errors.Is(err, queue.ErrFailed):
		return "failed"
	case errors.Is(err, queue.ErrClosed):
		return "closed"
	case errors.Is(err, queue.ErrConflict):
		return "conflict"
	case errors.Is(err, queue.ErrMismatch):
		return "key_reused"
	}
	return "error"
}

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
		room := attributeBuffers.Get().(*[8]attribute.KeyValue)
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
		attributeBuffers.Put(room)
	}
	span.End()
}
