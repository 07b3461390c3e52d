package spans

import (
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/trace"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"
)

// tag is what stands before a field: its number and how it is encoded.
type tag = byte

// ways in which fields are encoded
const (
	varint  = byte(protowire.VarintType)
	fixed64 = byte(protowire.Fixed64Type)
	fixed32 = byte(protowire.Fixed32Type)
	counted = byte(protowire.BytesType) // after their length
)

// Fields of OTLP's messages (opentelemetry-proto 1.11.0: trace/v1, common/v1 and
// resource/v1).
const (
	resourceSpansResource  tag = 1<<3 | counted
	resourceSpansScope     tag = 2<<3 | counted
	resourceSpansSchemaURL tag = 3<<3 | counted

	resourceAttributes tag = 1<<3 | counted

	scopeSpansScope     tag = 1<<3 | counted
	scopeSpansSpans     tag = 2<<3 | counted
	scopeSpansSchemaURL tag = 3<<3 | counted

	scopeName       tag = 1<<3 | counted
	scopeVersion    tag = 2<<3 | counted
	scopeAttributes tag = 3<<3 | counted

	spanTraceID        tag = 1<<3 | counted
	spanSpanID         tag = 2<<3 | counted
	spanTraceState     tag = 3<<3 | counted
	spanParentID       tag = 4<<3 | counted
	spanName           tag = 5<<3 | counted
	spanKind           tag = 6<<3 | varint
	spanStart          tag = 7<<3 | fixed64
	spanEnd            tag = 8<<3 | fixed64
	spanAttributes     tag = 9<<3 | counted
	spanLostAttributes tag = 10<<3 | varint
	spanEvents         tag = 11<<3 | counted
	spanLostEvents     tag = 12<<3 | varint
	spanLinks          tag = 13<<3 | counted
	spanLostLinks      tag = 14<<3 | varint
	spanStatus         tag = 15<<3 | counted
	// spanFlags is the 16th, whose tag has two bytes.
	spanFlags = "\x85\x01"

	eventTime           tag = 1<<3 | fixed64
	eventName           tag = 2<<3 | counted
	eventAttributes     tag = 3<<3 | counted
	eventLostAttributes tag = 4<<3 | varint

	linkTraceID        tag = 1<<3 | counted
	linkSpanID         tag = 2<<3 | counted
	linkAttributes     tag = 4<<3 | counted
	linkLostAttributes tag = 5<<3 | varint
	linkFlags          tag = 6<<3 | fixed32

	statusMessage tag = 2<<3 | counted
	statusCode    tag = 3<<3 | varint

	keyValueKey   tag = 1<<3 | counted
	keyValueValue tag = 2<<3 | counted

	valueString tag = 1<<3 | counted
	valueBool   tag = 2<<3 | varint
	valueInt    tag = 3<<3 | varint
	valueDouble tag = 4<<3 | fixed64
	valueArray  tag = 5<<3 | counted
	valueList   tag = 6<<3 | counted
	valueBytes  tag = 7<<3 | counted

	arrayValues tag = 1<<3 | counted
	listValues  tag = 1<<3 | counted
)

// unlimited is the limit of strings where there is none.
const unlimited = -1

// appendVarint writes a number, most of which have one byte.
func appendVarint(b []byte, n uint64) []byte {
	if n < 1<<7 {
		return append(b, byte(n))
	}
	return protowire.AppendVarint(b, n)
}

// begin begins a message that is a field of another; end, told where its content
// began, ends it.
func begin(b []byte, field tag) (_ []byte, at int) {
	return append(b, field, 0), len(b) + 2
}

// end writes the message's length before it, for which begin has left a byte.
func end(b []byte, at int) []byte {
	length := len(b) - at
	if more := protowire.SizeVarint(uint64(length)) - 1; more > 0 {
		var room [9]byte
		b = append(b, room[:more]...)
		copy(b[at+more:], b[at:at+length])
	}
	protowire.AppendVarint(b[:at-1], uint64(length))
	return b
}

// text is a string as it may be sent: a receiver refuses all that comes with one
// which is not UTF-8.
func text(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, string(utf8.RuneError))
}

// appendString writes a text, an empty one too.
func appendString(b []byte, field tag, s string) []byte {
	return append(appendVarint(append(b, field), uint64(len(s))), s...)
}

// appendText writes a string unless it is empty.
func appendText(b []byte, field tag, s string) []byte {
	if s == "" {
		return b
	}
	return appendString(b, field, text(s))
}

// appendBytes writes bytes, none too.
func appendBytes(b []byte, field tag, v []byte) []byte {
	return append(appendVarint(append(b, field), uint64(len(v))), v...)
}

// appendCount writes a number of things that were dropped, unless it is 0.
func appendCount(b []byte, field tag, n int) []byte {
	if n == 0 {
		return b
	}
	return appendVarint(append(b, field), uint64(min(n, math.MaxUint32)))
}

func appendTime(b []byte, field tag, t time.Time) []byte {
	return protowire.AppendFixed64(append(b, field), uint64(max(t.UnixNano(), 0)))
}

// flags are a context's, and of another context whether it came from elsewhere.
func flags(of trace.TraceFlags, other trace.SpanContext) uint32 {
	flags := uint32(of) | uint32(otlp.SpanFlags_SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK)
	if other.IsRemote() {
		flags |= uint32(otlp.SpanFlags_SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK)
	}
	return flags
}

// appendIdentity writes which span it is, and of which it is a child.
func appendIdentity(b []byte, sc, parent trace.SpanContext) []byte {
	traceID, spanID := sc.TraceID(), sc.SpanID()
	b = appendBytes(b, spanTraceID, traceID[:])
	b = appendBytes(b, spanSpanID, spanID[:])
	if state := sc.TraceState(); state.Len() > 0 {
		b = appendText(b, spanTraceState, state.String())
	}
	if id := parent.SpanID(); id.IsValid() {
		b = appendBytes(b, spanParentID, id[:])
	}
	return protowire.AppendFixed32(append(b, spanFlags...), flags(sc.TraceFlags(), parent))
}

func appendEvent(b []byte, name string, at time.Time, attributes []attribute.KeyValue, lost int) []byte {
	b, began := begin(b, spanEvents)
	b = appendTime(b, eventTime, at)
	b = appendText(b, eventName, name)
	b = appendAttributes(b, eventAttributes, attributes)
	b = appendCount(b, eventLostAttributes, lost)
	return end(b, began)
}

func appendLink(b []byte, to trace.SpanContext, attributes []attribute.KeyValue, lost int) []byte {
	traceID, spanID := to.TraceID(), to.SpanID()
	b, began := begin(b, spanLinks)
	b = appendBytes(b, linkTraceID, traceID[:])
	b = appendBytes(b, linkSpanID, spanID[:])
	b = appendAttributes(b, linkAttributes, attributes)
	b = appendCount(b, linkLostAttributes, lost)
	b = protowire.AppendFixed32(append(b, linkFlags), flags(to.TraceFlags(), to))
	return end(b, began)
}

func appendStatus(b []byte, code codes.Code, description string) []byte {
	b, at := begin(b, spanStatus)
	b = appendText(b, statusMessage, description)
	switch code {
	case codes.Ok:
		b = append(b, statusCode, byte(otlp.Status_STATUS_CODE_OK))
	case codes.Error:
		b = append(b, statusCode, byte(otlp.Status_STATUS_CODE_ERROR))
	}
	return end(b, at)
}

func kindOf(k trace.SpanKind) otlp.Span_SpanKind {
	switch k {
	case trace.SpanKindServer:
		return otlp.Span_SPAN_KIND_SERVER
	case trace.SpanKindClient:
		return otlp.Span_SPAN_KIND_CLIENT
	case trace.SpanKindProducer:
		return otlp.Span_SPAN_KIND_PRODUCER
	case trace.SpanKindConsumer:
		return otlp.Span_SPAN_KIND_CONSUMER
	}
	return otlp.Span_SPAN_KIND_INTERNAL
}

// appendAttributes writes attributes as they are.
func appendAttributes(b []byte, field tag, attributes []attribute.KeyValue) []byte {
	for i := range attributes {
		b = appendAttribute(b, field, &attributes[i], unlimited)
	}
	return b
}

// appendAttribute writes an attribute; limit bounds its strings in characters.
// Its key is the program's own, and a text.
func appendAttribute(b []byte, field tag, a *attribute.KeyValue, limit int) []byte {
	key := string(a.Key)
	if a.Value.Type() == attribute.STRING {
		// Most are: their lengths are known beforehand.
		s := shortened(a.Value.AsString(), limit)
		value := 1 + protowire.SizeBytes(len(s))
		b = appendVarint(append(b, field), uint64(2+protowire.SizeBytes(len(key))+protowire.SizeBytes(value)))
		b = appendString(b, keyValueKey, key)
		b = appendVarint(append(b, keyValueValue), uint64(value))
		return appendString(b, valueString, s)
	}
	b, pair := begin(b, field)
	b = appendString(b, keyValueKey, key)
	b, value := begin(b, keyValueValue)
	b = appendValue(b, a.Value, limit)
	return end(end(b, value), pair)
}

// appendValue writes the content of a value. One that is empty, 0 or false is
// written too: it is there.
func appendValue(b []byte, v attribute.Value, limit int) []byte {
	switch v.Type() {
	case attribute.STRING:
		return appendString(b, valueString, shortened(v.AsString(), limit))
	case attribute.INT64:
		return appendVarint(append(b, valueInt), uint64(v.AsInt64()))
	case attribute.BOOL:
		return append(b, valueBool, byte(protowire.EncodeBool(v.AsBool())))
	case attribute.FLOAT64:
		return protowire.AppendFixed64(append(b, valueDouble), math.Float64bits(v.AsFloat64()))
	case attribute.BYTESLICE:
		bytes := v.AsByteSlice()
		if limit >= 0 {
			bytes = bytes[:min(len(bytes), limit)]
		}
		return appendBytes(b, valueBytes, bytes)
	case attribute.MAP:
		b, at := begin(b, valueList)
		pairs := v.AsMap() // sorted; of equal keys the last counts
		for i := range pairs {
			if i+1 == len(pairs) || pairs[i+1].Key != pairs[i].Key {
				b = appendAttribute(b, listValues, &pairs[i], limit)
			}
		}
		return end(b, at)
	case attribute.EMPTY:
		return b
	}
	b, at := begin(b, valueArray)
	for _, element := range elements(v) {
		var value int
		b, value = begin(b, arrayValues)
		b = end(appendValue(b, element, limit), value)
	}
	return end(b, at)
}

// elements are the values of a slice.
func elements(v attribute.Value) []attribute.Value {
	switch v.Type() {
	case attribute.BOOLSLICE:
		return valuesOf(v.AsBoolSlice(), attribute.BoolValue)
	case attribute.INT64SLICE:
		return valuesOf(v.AsInt64Slice(), attribute.Int64Value)
	case attribute.FLOAT64SLICE:
		return valuesOf(v.AsFloat64Slice(), attribute.Float64Value)
	case attribute.STRINGSLICE:
		return valuesOf(v.AsStringSlice(), attribute.StringValue)
	}
	return v.AsSlice()
}

func valuesOf[T any](list []T, of func(T) attribute.Value) []attribute.Value {
	values := make([]attribute.Value, len(list))
	for i, v := range list {
		values[i] = of(v)
	}
	return values
}

// shortened is a text of at most limit characters; a negative limit is none.
func shortened(s string, limit int) string {
	s = text(s)
	if limit < 0 || len(s) <= limit {
		return s
	}
	for i := range s {
		if limit == 0 {
			return s[:i]
		}
		limit--
	}
	return s
}

// head is a resource's message with one scope and no spans.
func head(r *resource.Resource, scope instrumentation.Scope) []byte {
	b, at := begin(nil, resourceSpansResource)
	b = end(appendAttributes(b, resourceAttributes, r.Attributes()), at)
	b = appendText(b, resourceSpansSchemaURL, r.SchemaURL())
	b, at = begin(b, resourceSpansScope)
	b, inner := begin(b, scopeSpansScope)
	b = appendText(b, scopeName, scope.Name)
	b = appendText(b, scopeVersion, scope.Version)
	b = end(appendAttributes(b, scopeAttributes, scope.Attributes.ToSlice()), inner)
	b = appendText(b, scopeSpansSchemaURL, scope.SchemaURL)
	return end(b, at)
}
