package relay

import (
	"sync"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/userhero/relay/queue"
)

// The spans of one event. An attempt that comes at once is a child of the acceptance. A
// retry comes minutes or days later, when nobody looks at that trace any more, so it
// starts a trace of its own that links back.
//
//	request ──► send feedback ──► process feedback ──► POST ──► the receiver's
//	(Caddy's)        ▲                   ▲
//	                 ╎ link              ╎ link
//	                 └╌╌╌╌╌╌╌╌╌╌╌╌╌ process feedback ──► POST
//	                                (a retry, a new root)
//
// Names and attributes follow OpenTelemetry's semantic conventions 1.43.0, for
// messaging (in development) and for HTTP clients (stable). An attribute that has no
// name there begins with "userhero.".
const (
	spanSend    = "send feedback"
	spanProcess = "process feedback"

	// maxTraceState is the length that every vendor must propagate: W3C Trace Context
	// §3.3.1.5.
	maxTraceState = 512
)

var (
	messagingSystem = semconv.MessagingSystemKey.String("userhero")
	destination     = semconv.MessagingDestinationName("feedback")
	sendOperation   = []attribute.KeyValue{messagingSystem, destination, semconv.MessagingOperationName("send"), semconv.MessagingOperationTypeSend}
	processing      = []attribute.KeyValue{messagingSystem, destination, semconv.MessagingOperationName("process"), semconv.MessagingOperationTypeProcess}

	producing = []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindProducer)}
	consuming = []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindConsumer)}
)

// describeProcess returns the attributes that all spans of a webhook's attempts share.
func describeProcess(webhook string) []attribute.KeyValue {
	return append(processing[:len(processing):len(processing)], semconv.MessagingDestinationSubscriptionName(webhook))
}

// attributeBuffers holds buffers for attributes. A span copies the attributes it is
// given, so a buffer can be used again.
var attributeBuffers = sync.Pool{New: func() any { return new(attributeBuffer) }}

// attributeBuffer has room for the attributes of any span of the relay.
type attributeBuffer [16]attribute.KeyValue

// linked returns a link to a span. If the span is invalid, it returns no link.
func linked(sc trace.SpanContext) trace.SpanStartOption {
	return trace.WithLinks(trace.Link{SpanContext: sc})
}

// traceContext returns the stored form of a span's context. It leaves out baggage,
// which a visitor's page can set and which is of no use days later.
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

// spanContext returns a stored context as a span's context. It is invalid if nothing is
// stored.
func spanContext(t queue.TraceContext) trace.SpanContext {
	state, err := trace.ParseTraceState(t.State)
	if err != nil {
		state = trace.TraceState{} // keep the ids
	}
	return trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: t.TraceID, SpanID: t.SpanID, TraceFlags: trace.TraceFlags(t.Flags), TraceState: state, Remote: true,
	})
}
