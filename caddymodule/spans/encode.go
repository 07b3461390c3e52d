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

// Numbers of the fields of OTLP's messages (opentelemetry-proto 1.11.0,
// trace/v1, common/v1 and resource/v1).
const (
	resourceSpansResource  protowire.Number = 1
	resourceSpansScope     protowire.Number = 2
	resourceSpansSchemaURL protowire.Number = 3

	resourceAttributes protowire.Number = 1

	scopeSpansScope     protowire.Number = 1
	scopeSpansSpans     protowire.Number = 2
	scopeSpansSchemaURL protowire.Number = 3

	scopeName       protowire.Number = 1
	scopeVersion    protowire.Number = 2
	scopeAttributes protowire.Number = 3

	spanTraceID        protowire.Number = 1
	spanSpanID         protowire.Number = 2
	spanTraceState     protowire.Number = 3
	spanParentID       protowire.Number = 4
	spanName           protowire.Number = 5
	spanKind           protowire.Number = 6
	spanStart          protowire.Number = 7
	spanEnd            protowire.Number = 8
	spanAttributes     protowire.Number = 9
	spanLostAttributes protowire.Number = 10
	spanEvents         protowire.Number = 11
	spanLostEvents     protowire.Number = 12
	spanLinks          protowire.Number = 13
	spanLostLinks      protowire.Number = 14
	spanStatus         protowire.Number = 15
	spanFlags          protowire.Number = 16

	eventTime           protowire.Number = 1
	eventName           protowire.Number = 2
	eventAttributes     protowire.Number = 3
	eventLostAttributes protowire.Number = 4

	linkTraceID        protowire.Number = 1
	linkSpanID         protowire.Number = 2
	linkAttributes     protowire.Number = 4
	linkLostAttributes protowire.Number = 5
	linkFlags          protowire.Number = 6

	statusMessage protowire.Number = 2
	statusCode    protowire.Number = 3

	keyValueKey   protowire.Number = 1
	keyValueValue protowire.Number = 2

	valueString protowire.Number = 1
	valueBool   protowire.Number = 2
	valueInt    protowire.Number = 3
	valueDouble protowire.Number = 4
	valueArray  protowire.Number = 5
	valueList   protowire.Number = 6
	valueBytes  protowire.Number = 7

	arrayValues protowire.Number = 1
	listValues  protowire.Number = 1
)

// unlimited is the limit of strings where there is none.
const unlimited = -1

// begin begins a message that is a field of another; end, told where its content
// began, ends it.
func begin(b []byte, field protowire.Number) (_ []byte, at int) {
	b = append(protowire.AppendTag(b, field, protowire.BytesType), 0)
	return b, len(b)
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

// appendString writes a field unless it is empty. A receiver refuses all that
// comes with a string which is not UTF-8.
func appendString(b []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, string(utf8.RuneError))
	}
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

func appendBytes(b []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}

// appendCount writes a number of things that were dropped, unless it is 0.
func appendCount(b []byte, field protowire.Number, n int) []byte {
	if n == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), uint64(min(n, math.MaxUint32)))
}

func appendTime(b []byte, field protowire.Number, t time.Time) []byte {
	if ns := t.UnixNano(); ns > 0 {
		return protowire.AppendFixed64(protowire.AppendTag(b, field, protowire.Fixed64Type), uint64(ns))
	}
	return b
}

// appendFlags writes a context's flags, and of another context whether it came
// from elsewhere.
func appendFlags(b []byte, field protowire.Number, of trace.TraceFlags, other trace.SpanContext) []byte {
	flags := uint32(of) | uint32(otlp.SpanFlags_SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK)
	if other.IsRemote() {
		flags |= uint32(otlp.SpanFlags_SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK)
	}
	return protowire.AppendFixed32(protowire.AppendTag(b, field, protowire.Fixed32Type), flags)
}

// appendSpan writes a span as one of a scope's.
func appendSpan(b []byte, sc trace.SpanContext, r *record, ended time.Time, limit int) []byte {
	b, at := begin(b, scopeSpansSpans)
	traceID, spanID := sc.TraceID(), sc.SpanID()
	b = appendBytes(b, spanTraceID, traceID[:])
	b = appendBytes(b, spanSpanID, spanID[:])
	if state := sc.TraceState(); state.Len() > 0 {
		b = appendString(b, spanTraceState, state.String())
	}
	if parent := r.parent.SpanID(); parent.IsValid() {
		b = appendBytes(b, spanParentID, parent[:])
	}
	b = appendFlags(b, spanFlags, sc.TraceFlags(), r.parent)
	b = appendString(b, spanName, r.name)
	b = protowire.AppendVarint(protowire.AppendTag(b, spanKind, protowire.VarintType), uint64(kindOf(r.kind)))
	b = appendTime(b, spanStart, r.start)
	b = appendTime(b, spanEnd, ended)
	b = appendAttributes(b, spanAttributes, r.attributes, limit)
	b = appendCount(b, spanLostAttributes, r.lostAttributes)
	for i := range r.events {
		e := &r.events[i]
		var at int
		b, at = begin(b, spanEvents)
		b = appendTime(b, eventTime, e.Time)
		b = appendString(b, eventName, e.Name)
		b = appendAttributes(b, eventAttributes, e.Attributes, unlimited)
		b = appendCount(b, eventLostAttributes, e.DroppedAttributeCount)
		b = end(b, at)
	}
	b = appendCount(b, spanLostEvents, r.lostEvents)
	for i := range r.links {
		l := &r.links[i]
		traceID, spanID := l.SpanContext.TraceID(), l.SpanContext.SpanID()
		var at int
		b, at = begin(b, spanLinks)
		b = appendBytes(b, linkTraceID, traceID[:])
		b = appendBytes(b, linkSpanID, spanID[:])
		b = appendAttributes(b, linkAttributes, l.Attributes, unlimited)
		b = appendCount(b, linkLostAttributes, l.DroppedAttributeCount)
		b = appendFlags(b, linkFlags, l.SpanContext.TraceFlags(), l.SpanContext)
		b = end(b, at)
	}
	b = appendCount(b, spanLostLinks, r.lostLinks)
	b = appendStatus(b, r.status, r.description)
	return end(b, at)
}

func appendStatus(b []byte, code codes.Code, description string) []byte {
	b, at := begin(b, spanStatus)
	b = appendString(b, statusMessage, description)
	switch code {
	case codes.Ok:
		b = protowire.AppendVarint(protowire.AppendTag(b, statusCode, protowire.VarintType), uint64(otlp.Status_STATUS_CODE_OK))
	case codes.Error:
		b = protowire.AppendVarint(protowire.AppendTag(b, statusCode, protowire.VarintType), uint64(otlp.Status_STATUS_CODE_ERROR))
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

// appendAttributes writes attributes; limit bounds their strings in characters.
func appendAttributes(b []byte, field protowire.Number, attributes []attribute.KeyValue, limit int) []byte {
	for i := range attributes {
		var pair, value int
		b, pair = begin(b, field)
		b = appendString(b, keyValueKey, string(attributes[i].Key))
		b, value = begin(b, keyValueValue)
		b = appendValue(b, attributes[i].Value, limit)
		b = end(end(b, value), pair)
	}
	return b
}

// appendValue writes the content of a value. One that is empty, 0 or false is
// written too: it is there.
func appendValue(b []byte, v attribute.Value, limit int) []byte {
	switch v.Type() {
	case attribute.STRING:
		s := shortened(v.AsString(), limit)
		return protowire.AppendString(protowire.AppendTag(b, valueString, protowire.BytesType), s)
	case attribute.INT64:
		return protowire.AppendVarint(protowire.AppendTag(b, valueInt, protowire.VarintType), uint64(v.AsInt64()))
	case attribute.BOOL:
		return protowire.AppendVarint(protowire.AppendTag(b, valueBool, protowire.VarintType), protowire.EncodeBool(v.AsBool()))
	case attribute.FLOAT64:
		return protowire.AppendFixed64(protowire.AppendTag(b, valueDouble, protowire.Fixed64Type), math.Float64bits(v.AsFloat64()))
	case attribute.BYTESLICE:
		bytes := v.AsByteSlice()
		if limit >= 0 {
			bytes = bytes[:min(len(bytes), limit)]
		}
		return appendBytes(b, valueBytes, bytes)
	case attribute.MAP:
		b, at := begin(b, valueList)
		pairs := v.AsMap() // sorted, of equal keys the last counts
		for i := range pairs {
			if i+1 == len(pairs) || pairs[i+1].Key != pairs[i].Key {
				b = appendAttributes(b, listValues, pairs[i:i+1], limit)
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

// shortened is a string of at most limit characters, all of which are some; a
// negative limit is none.
func shortened(s string, limit int) string {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, string(utf8.RuneError))
	}
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
	b = end(appendAttributes(b, resourceAttributes, r.Attributes(), unlimited), at)
	b = appendString(b, resourceSpansSchemaURL, r.SchemaURL())
	b, at = begin(b, resourceSpansScope)
	b, inner := begin(b, scopeSpansScope)
	b = appendString(b, scopeName, scope.Name)
	b = appendString(b, scopeVersion, scope.Version)
	b = end(appendAttributes(b, scopeAttributes, scope.Attributes.ToSlice(), unlimited), inner)
	b = appendString(b, scopeSpansSchemaURL, scope.SchemaURL)
	return end(b, at)
}
