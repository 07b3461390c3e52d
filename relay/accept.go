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
	"github.com/userhero/relay/relay/feed"
)

// Accept stores an entry, now, with a delivery for each webhook that wants it. When it
// returns, both are on disk. A span in ctx becomes the parent of the send span, or is
// linked to it if it is remote: then a client has sent its trace context. The event is
// stored with the trace context of its send span, or with that of the span in ctx if
// tracing is off. Accept returns the queue's errors.
func (r *Relay) Accept(ctx context.Context, e queue.Entry) (queue.Receipt, error) {
	e.Created = time.Now()
	if e.Body == nil {
		return r.queue.Enqueue(ctx, e)
	}
	e.Webhooks = r.wanting(&e)
	ctx, span := r.startSend(ctx)
	e.Trace = traceContext(trace.SpanContextFromContext(ctx))
	receipt, err := r.queue.Enqueue(ctx, e)
	endSend(span, &e, &receipt, err)
	if err == nil && !receipt.Replayed {
		r.observer.Accepted(e.Type, r.countedAs(e.Feedback.Project))
		r.tally.Accepted(receipt.Event.Created)
		if r.feed.HasListeners() {
			r.feed.Publish(feed.Happening{
				Kind: feed.Accepted, Event: receipt.Event.ID, Type: e.Type, Feedback: e.Feedback, Deliveries: len(e.Webhooks), Takers: r.takers(e.Webhooks),
			})
		}
	}
	return receipt, err
}

// wanting returns the webhooks that get a delivery of the event. If a filter cannot
// judge the event, its webhook gets none, and the failure is counted. Filters run
// without a lock.
func (r *Relay) wanting(e *queue.Entry) []queue.WebhookID {
	r.mu.RLock()
	webhooks := slices.AppendSeq(make([]*webhook, 0, len(r.webhooks)), maps.Values(r.webhooks))
	r.mu.RUnlock()
	doc := expression.NewDocument(e.Body)
	ids := make([]queue.WebhookID, 0, len(webhooks))
	for _, w := range webhooks {
		if !w.enabled() {
			continue
		}
		wanted, err := w.wants(event.Type(e.Type), e.Feedback, doc)
		if err != nil {
			w.filterFailed(err)
		}
		if wanted {
			ids = append(ids, w.id)
		}
	}
	return ids
}

// Counters by project use these names for projects that the configuration does not name,
// and for feedback without a project.
const (
	OtherProjects = "_other"
	NoProject     = "_none"
)

// Projects returns the projects that the configuration names, sorted.
func (r *Relay) Projects() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.current == nil {
		return nil
	}
	return r.current.config.Projects
}

// countedAs returns the name under which a project is counted. Clients choose projects, so
// only projects that the configuration names have their own counter.
func (r *Relay) countedAs(project string) string {
	if project == "" {
		return NoProject
	}
	if _, named := slices.BinarySearch(r.Projects(), project); !named {
		return OtherProjects
	}
	return project
}

// takers returns the projects of each webhook.
func (r *Relay) takers(ids []queue.WebhookID) [][]string {
	all := make([][]string, len(ids))
	for i, id := range ids {
		all[i] = r.ProjectsOf(id)
	}
	return all
}

// classOfStore returns the error class for an event that was not stored.
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

// startSend starts the span of an acceptance. If the context has a request span, the
// new span is its child. To the trace context of a client the span only links: anybody
// can send a traceparent header, and a header that was copied must not put thousands of
// submissions into one trace.
//
// Without a tracer the span is nil and nothing is allocated.
func (r *Relay) startSend(ctx context.Context) (context.Context, trace.Span) {
	if r.tracer == nil {
		return ctx, nil
	}
	options := producing
	if client := trace.SpanContextFromContext(ctx); client.IsRemote() {
		options = append(options[:len(options):len(options)], trace.WithNewRoot(), linked(client))
	}
	return r.tracer.Start(ctx, spanSend, options...)
}

// endSend ends the span and records the submission and its result on it.
func endSend(span trace.Span, e *queue.Entry, receipt *queue.Receipt, err error) {
	if span == nil {
		return
	}
	if span.IsRecording() {
		room := attributeBuffers.Get().(*attributeBuffer)
		attributes := append(append(room[:0], sendOperation...),
			semconv.MessagingMessageConversationID(e.Feedback.ID),
			semconv.MessagingMessageBodySize(len(e.Body)),
			attribute.String("userhero.event.type", e.Type),
		)
		switch {
		case err != nil:
			deliver.FailSpan(span, classOfStore(err))
		case receipt.Replayed:
			attributes = append(attributes, semconv.MessagingMessageID(receipt.Event.ID.String()), attribute.Bool("userhero.event.replayed", true))
		default:
			attributes = append(attributes, semconv.MessagingMessageID(receipt.Event.ID.String()), attribute.Int("userhero.event.deliveries", len(e.Webhooks)))
		}
		span.SetAttributes(attributes...)
		attributeBuffers.Put(room)
	}
	span.End()
}
