package relay

import (
	"sync"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/userhero/relay/queue"
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
var attributeBuffers = sync.Pool{New: func() any { return new([8]attribute.KeyValue) }}

// linked links a span to another; to none if that is invalid.
func linked(sc trace.SpanContext) trace.SpanStartOption {
	return trace.WithLinks(trace.Link{SpanContext: sc})
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

// spanContext is a stored context as a span's, invalid if nothing is stored.
func spanContext(t queue.TraceContext) trace.SpanContext {
	state, err := trace.ParseTraceState(t.State)
	if err != nil {
		state = trace.TraceState{} // the ids are still worth something
	}
	return trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: t.TraceID, SpanID: t.SpanID, TraceFlags: trace.TraceFlags(t.Flags), TraceState: state, Remote: true,
	})
}
