package relay

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/userhero/relay/relay/redact"
)

// wire follows the requests of one attempt onto the wire, where each gets a
// span of its own: go-retryablehttp may send a request again, and while a
// secret is rotated a second one may follow. It belongs to a sending, and what
// follows the requests is made with that, once for many attempts.
type wire struct {
	tracer trace.Tracer // nil: no spans
	sent   int          // requests so far

	// span is that of the request under way, and learnt are attributes that it gets
	// at its end, all at once.
	span   trace.Span
	learnt []attribute.KeyValue
	// peer was at the other end last, and address is how that is written.
	peer    netip.AddrPort
	address string
	// follow has it told of an exchange over package lean's connections.
	follow httptrace.ClientTrace
}

func (w *wire) prepare() {
	w.follow = timings(w, func() trace.Span { return w.span })
}

// The header fields of W3C Trace Context, as it spells them.
const (
	headerTraceparent = "traceparent"
	headerTracestate  = "tracestate"
)

// appendTraceparent appends that of §3.2.
func appendTraceparent(b []byte, traceID [16]byte, spanID [8]byte, flags byte) []byte {
	b = append(b, "00-"...)
	b = hex.AppendEncode(b, traceID[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, spanID[:])
	return append(b, '-', hexDigits[flags>>4], hexDigits[flags&15])
}

const hexDigits = "0123456789abcdef"

// roundTripper stands between go-retryablehttp and a transport, whichever that
// is. It makes the `POST` spans, and it hides the transport's
// CloseIdleConnections: go-retryablehttp calls it after every failure, and would
// close the connections to receivers that are well.
type roundTripper struct{ inner http.RoundTripper }

func (t roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	s, ok := r.Context().Value(sendingKey{}).(*sending)
	if !ok || s.wire.tracer == nil {
		return t.inner.RoundTrip(r)
	}
	w := &s.wire
	s.target.prepared.Do(func() { s.target.requesting = starting(w.tracer, sender, s.target.described) })
	_, w.span = w.tracer.Start(s, http.MethodPost, s.target.requesting...)
	w.learnt, s.parcel.Trace = w.learnt[:0], nil
	if w.span.IsRecording() {
		s.parcel.Trace = &w.follow
		if w.sent > 0 {
			w.learnt = append(w.learnt, semconv.HTTPRequestResendCount(w.sent))
		}
	}
	w.sent++
	sc := w.span.SpanContext()
	var room [55]byte
	s.propagate(string(appendTraceparent(room[:0], sc.TraceID(), sc.SpanID(), byte(sc.TraceFlags()))), sc.TraceState().String())
	response, err := t.inner.RoundTrip(r)
	if err != nil {
		class, _ := classify(causeOf(s, err))
		s.endRequest(class)
		return nil, err
	}
	w.learnt = append(w.learnt, semconv.HTTPResponseStatusCode(response.StatusCode), protocolVersion(response))
	class := ""
	if response.StatusCode/100 != 2 {
		// A redirect too: it is not followed, and the delivery has failed.
		class = strconv.Itoa(response.StatusCode)
	}
	if response.Body == http.NoBody {
		s.endRequest(class)
	} else {
		response.Body = &tracedBody{ReadCloser: response.Body, sending: s, class: class}
	}
	return response, nil
}

// endRequest ends the span of the request under way; without a class it has
// succeeded.
func (s *sending) endRequest(class string) {
	w := &s.wire
	if w.span.IsRecording() {
		if class != "" {
			fail(w.span, class)
		}
		w.span.SetAttributes(w.learnt...)
	}
	w.span.End()
}

// causeOf is why a request ended: what ended its context, unless the address
// was refused, or else the error itself.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, errEgress) {
		return cause
	}
	return err
}

// describe returns the attributes of requests to a URL, without its secrets.
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

// happened writes down when a request came how far, as an event of its span.
func happened(span trace.Span, name string, err error) {
	if err == nil {
		span.AddEvent(name)
		return
	}
	class, _ := classify(err)
	span.AddEvent(name, trace.WithAttributes(semconv.ErrorTypeKey.String(class)))
}

// timings have a request's exchange written into its span. They are called while
// the request is under way, or the span is one that stays its own.
func timings(w *wire, span func() trace.Span) httptrace.ClientTrace {
	return httptrace.ClientTrace{
		GotConn:              w.gotConn,
		TLSHandshakeStart:    func() { span().AddEvent("tls start") },
		TLSHandshakeDone:     func(_ tls.ConnectionState, err error) { happened(span(), "tls done", err) },
		WroteRequest:         func(i httptrace.WroteRequestInfo) { happened(span(), "request written", i.Err) },
		GotFirstResponseByte: func() { span().AddEvent("first byte") },
	}
}

// gotConn notes who is at the other end of the connection, the receiver or a
// proxy, and whether it has served before.
func (w *wire) gotConn(i httptrace.GotConnInfo) {
	w.learnt = append(w.learnt, attribute.Bool("userhero.connection.reused", i.Reused))
	if a, ok := i.Conn.RemoteAddr().(*net.TCPAddr); ok {
		if address := a.AddrPort(); address != w.peer {
			w.peer, w.address = address, address.Addr().Unmap().String()
		}
		w.learnt = append(w.learnt, semconv.NetworkPeerAddress(w.address), semconv.NetworkPeerPort(int(w.peer.Port())))
	}
}

// dialTimings have a dial written into a span. It may go on in the background:
// what it tells after the span has ended is dropped by the span.
func dialTimings(t *httptrace.ClientTrace, span trace.Span) {
	t.DNSStart = func(httptrace.DNSStartInfo) { span.AddEvent("dns start") }
	t.DNSDone = func(i httptrace.DNSDoneInfo) { happened(span, "dns done", i.Err) }
	t.ConnectStart = func(_, address string) {
		span.AddEvent("connect start", trace.WithAttributes(attribute.String("network.peer", address)))
	}
	t.ConnectDone = func(_, _ string, err error) { happened(span, "connect done", err) }
}

// dialling is the context of a dial that the request under way waits for.
func dialling(ctx context.Context) context.Context {
	s, ok := ctx.Value(sendingKey{}).(*sending)
	if !ok || s.parcel.Trace == nil {
		return ctx
	}
	var t httptrace.ClientTrace
	dialTimings(&t, s.wire.span)
	return httptrace.WithClientTrace(ctx, &t)
}

// following follows a request of net/http's transport, which dials and writes in
// goroutines of its own.
func (s *sending) following() (t httptrace.ClientTrace) {
	if s.parcel.Trace == nil {
		return t
	}
	span := s.wire.span
	t = timings(&s.wire, func() trace.Span { return span })
	dialTimings(&t, span)
	return t
}

// tracedBody ends a request's span when its answer has been read.
type tracedBody struct {
	io.ReadCloser
	sending *sending
	class   string // of what went wrong; empty: nothing
	closed  bool
}

func (b *tracedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.class, _ = classify(causeOf(b.sending, err))
	}
	return n, err
}

// Close implements io.Closer; the span ends once.
func (b *tracedBody) Close() error {
	err := b.ReadCloser.Close()
	if !b.closed {
		b.closed = true
		b.sending.endRequest(b.class)
	}
	return err
}
