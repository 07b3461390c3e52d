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

// Acceptance is an event to take in.
type Acceptance struct {
	Type     event.Type
	Feedback queue.FeedbackID
	// Body is the event document. The caller must not change it afterwards. If it is
	// nil, no event is stored: see queue.Entry.
	Body []byte
	// Client is the trace context that an unauthenticated client sent. The send span
	// links to it. The context of Accept carries the request's own span, which becomes
	// the parent.
	Client trace.SpanContext
	// Replaces must be the feedback's latest event. If it is zero, Accept creates the
	// feedback.
	Replaces queue.EventID
	// Key and Origin identify a repeated submission. A repeat gets the first one's
	// Answer. See queue.Entry.
	Key    queue.Key
	Origin [32]byte
	Answer []byte
}

// Accept stores an event with a delivery for each webhook that wants it. When it
// returns, both are on disk. The event is stored with the trace context of its send
// span, or with that of the span in ctx if tracing is off. Accept returns the queue's
// errors.
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
		r.observer.Accepted(string(a.Type), r.countedAs(a.Feedback.Project))
		r.tally.Accepted(receipt.Event.Created)
		if r.feed.HasListeners() {
			r.feed.Publish(feed.Happening{
				Kind: feed.Accepted, Event: receipt.Event.ID, Type: string(a.Type), Feedback: a.Feedback, Deliveries: len(webhooks), Takers: r.takers(webhooks),
			})
		}
	}
	return receipt, err
}

// wanting returns the webhooks that get a delivery of the event. If a filter cannot
// judge the event, its webhook gets none, and the failure is counted. Filters run
// without a lock.
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
		wanted, err := w.wants(a.Type, a.Feedback, doc)
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
// new span is its child. Otherwise the span only links to the client's trace context:
// anybody can send a traceparent header, and a header that was copied must not put
// thousands of submissions into one trace.
//
// Without a tracer the span is nil and nothing is allocated.
func (r *Relay) startSend(ctx context.Context, a *Acceptance) (context.Context, trace.Span) {
	if r.tracer == nil {
		return ctx, nil
	}
	options := producing
	if a.Client.IsValid() && !trace.SpanContextFromContext(ctx).IsValid() {
		options = append(options[:len(options):len(options)], linked(a.Client))
	}
	return r.tracer.Start(ctx, spanSend, options...)
}

// endSend ends the span and records the submission and its result on it.
func endSend(span trace.Span, a *Acceptance, receipt *queue.Receipt, webhooks int, err error) {
	if span == nil {
		return
	}
	if span.IsRecording() {
		room := attributeBuffers.Get().(*attributeBuffer)
		attributes := append(append(room[:0], sendOperation...),
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
