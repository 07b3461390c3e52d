package deliver

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/userhero/relay/relay/redact"
)

// Header fields of W3C Trace Context, in its spelling.
const (
	headerTraceparent = "traceparent"
	headerTracestate  = "tracestate"
)

// appendTraceparent appends a traceparent (W3C Trace Context §3.2).
func appendTraceparent(b []byte, traceID [16]byte, spanID [8]byte, flags byte) []byte {
	b = append(b, "00-"...)
	b = hex.AppendEncode(b, traceID[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, spanID[:])
	return append(b, '-', hexDigits[flags>>4], hexDigits[flags&15])
}

const hexDigits = "0123456789abcdef"

// asClient holds the options that every request span starts with. Its attributes are
// set in one call when it ends: the SDK copies all of them each time that some are added.
var asClient = []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindClient)}

// mostAttributes is the number of attributes of a request that succeeds.
const mostAttributes = 10

// traced sends the request in its own span. go-retryablehttp may send the request
// again, and a rotation may send a second one.
func (s *sending) traced(r *http.Request) (*http.Response, error) {
	_, span := s.tracer.Start(r.Context(), http.MethodPost, asClient...)
	s.span = span
	s.trace = httptrace.ClientTrace{GotConn: s.tracedConn, TLSHandshakeStart: func() { s.handshaking = true }}
	if span.IsRecording() {
		s.attributes = append(make([]attribute.KeyValue, 0, mostAttributes), s.target.described...)
		s.traceSteps(span)
		if s.requests > 0 {
			s.attributes = append(s.attributes, semconv.HTTPRequestResendCount(s.requests))
		}
	}
	s.requests++
	sc := span.SpanContext()
	var room [55]byte
	s.propagate(string(appendTraceparent(room[:0], sc.TraceID(), sc.SpanID(), byte(sc.TraceFlags()))), sc.TraceState().String())
	response, err := s.roundTrip(r)
	if err != nil {
		s.endRequest(classify(causeOf(r.Context(), err)))
		return nil, err
	}
	s.attributes = append(s.attributes, semconv.HTTPResponseStatusCode(response.StatusCode), protocolVersion(response))
	class := ""
	if response.StatusCode/100 != 2 {
		// A redirect is also an error, because it is not followed.
		class = strconv.Itoa(response.StatusCode)
	}
	if response.Body == http.NoBody {
		s.endRequest(class)
	} else {
		response.Body = &tracedBody{ReadCloser: response.Body, sending: s, ctx: r.Context(), class: class}
	}
	return response, nil
}

// endRequest ends the span of the present request. An empty class means success.
func (s *sending) endRequest(class string) {
	if s.span.IsRecording() {
		if class != "" {
			FailSpan(s.span, class)
		}
		s.span.SetAttributes(s.attributes...)
	}
	s.span.End()
}

// FailSpan marks a span as failed with a class. The error's text is only in the attempt
// log and in the service's log, which bound its length and content.
func FailSpan(span trace.Span, class string) {
	span.SetStatus(codes.Error, "")
	span.SetAttributes(semconv.ErrorTypeKey.String(class))
}

// causeOf returns why a request ended. If its context has ended, that is the cause of
// the context, unless the address was refused. Otherwise it is err.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, errEgress) {
		return cause
	}
	return err
}

// describe returns the span attributes for requests to a URL, without its secrets.
func describe(to *url.URL) []attribute.KeyValue {
	port := 443
	if to.Scheme == "http" {
		port = 80
	}
	if n, err := strconv.Atoi(to.Port()); err == nil {
		port = n
	}
	return []attribute.KeyValue{
		semconv.HTTPRequestMethodPost, semconv.URLFull(redact.Parsed(to)), semconv.ServerAddress(to.Hostname()), semconv.ServerPort(port),
	}
}

func protocolVersion(r *http.Response) attribute.KeyValue {
	if r.ProtoMajor == 1 {
		return semconv.NetworkProtocolVersion(strings.TrimPrefix(r.Proto, "HTTP/"))
	}
	return semconv.NetworkProtocolVersion(strconv.Itoa(r.ProtoMajor))
}

// addStep adds a step of the request to its span, as an event.
func addStep(span trace.Span, name string, err error) {
	if err == nil {
		span.AddEvent(name)
		return
	}
	span.AddEvent(name, trace.WithAttributes(semconv.ErrorTypeKey.String(classify(err))))
}

// traceSteps adds the request's steps to its span. A slower dial may end after the
// span, which then ignores it.
func (s *sending) traceSteps(span trace.Span) {
	t := &s.trace
	t.DNSStart = func(httptrace.DNSStartInfo) { span.AddEvent("dns start") }
	t.DNSDone = func(i httptrace.DNSDoneInfo) { addStep(span, "dns done", i.Err) }
	t.ConnectStart = func(_, address string) {
		span.AddEvent("connect start", trace.WithAttributes(attribute.String("network.peer", address)))
	}
	t.ConnectDone = func(_, _ string, err error) { addStep(span, "connect done", err) }
	t.TLSHandshakeStart = func() { s.handshaking = true; span.AddEvent("tls start") }
	t.TLSHandshakeDone = func(_ tls.ConnectionState, err error) { addStep(span, "tls done", err) }
	t.WroteRequest = func(i httptrace.WroteRequestInfo) { addStep(span, "request written", i.Err) }
	t.GotFirstResponseByte = func() { span.AddEvent("first byte") }
}

// tracedConn does what gotConn does. It also records the peer of the connection, a
// receiver or a proxy, and whether the connection was used before.
func (s *sending) tracedConn(i httptrace.GotConnInfo) {
	s.gotConn(i)
	s.attributes = append(s.attributes, attribute.Bool("userhero.connection.reused", i.Reused))
	if i.Conn == nil {
		return
	}
	if a, ok := i.Conn.RemoteAddr().(*net.TCPAddr); ok {
		address := a.AddrPort()
		s.attributes = append(s.attributes, semconv.NetworkPeerAddress(address.Addr().Unmap().String()), semconv.NetworkPeerPort(int(address.Port())))
	}
}

// tracedBody ends a request's span after the response has been read.
type tracedBody struct {
	io.ReadCloser
	sending *sending
	ctx     context.Context //nolint:containedctx // the request's; it names why reading failed
	class   string          // class of the error; empty means success
	closed  bool
}

func (b *tracedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.class = classify(causeOf(b.ctx, err))
	}
	return n, err
}

// Close implements io.Closer. The span ends once.
func (b *tracedBody) Close() error {
	err := b.ReadCloser.Close()
	if !b.closed {
		b.closed = true
		b.sending.endRequest(b.class)
	}
	return err
}
