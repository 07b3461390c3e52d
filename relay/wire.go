package relay

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/userhero/relay/queue"
)

// wire follows the requests of one attempt onto the wire, where each gets a
// span of its own: go-retryablehttp may send a request again, and while a
// secret is rotated a second one may follow.
type wire struct {
	tracer trace.Tracer
	sent   int // requests so far
	// traceparent and tracestate are what the last of them carried.
	traceparent, tracestate string
}

type wireKey struct{}

// onWire makes requests with the returned context part of the attempt.
func onWire(ctx context.Context, w *wire) context.Context {
	return context.WithValue(ctx, wireKey{}, w)
}

// log puts what the last request carried into the attempt log's headers.
func (w *wire) log(headers []queue.Header) {
	for i := range headers {
		if headers[i].Name == headerTraceparent && w.traceparent != "" {
			headers[i].Value = w.traceparent
		}
	}
}

// The header fields of W3C Trace Context, as it spells them.
const (
	headerTraceparent = "traceparent"
	headerTracestate  = "tracestate"
)

// traceparent is that of §3.2.
func traceparent(traceID [16]byte, spanID [8]byte, flags byte) string {
	b := make([]byte, 0, 55)
	b = append(b, "00-"...)
	b = hex.AppendEncode(b, traceID[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, spanID[:])
	b = append(b, '-')
	return string(hex.AppendEncode(b, []byte{flags}))
}

// roundTripper stands between go-retryablehttp and a transport, whichever that
// is. It makes the `POST` spans, and it hides the transport's
// CloseIdleConnections: go-retryablehttp calls it after every failure, and would
// close the connections to receivers that are well.
type roundTripper struct{ inner http.RoundTripper }

func (t roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	r = complete(r)
	w, ok := r.Context().Value(wireKey{}).(*wire)
	if !ok {
		return t.inner.RoundTrip(r)
	}
	ctx, span := w.tracer.Start(r.Context(), http.MethodPost, trace.WithSpanKind(trace.SpanKindClient))
	if span.IsRecording() {
		span.SetAttributes(requestAttributes(r, w.sent)...)
		ctx = httptrace.WithClientTrace(ctx, timings(span))
	}
	w.sent++
	sc := span.SpanContext()
	w.traceparent, w.tracestate = traceparent(sc.TraceID(), sc.SpanID(), byte(sc.TraceFlags())), sc.TraceState().String()
	sent := r.WithContext(ctx)
	sent.Header = maps.Clone(r.Header) // the request itself is go-retryablehttp's
	sent.Header[headerTraceparent] = []string{w.traceparent}
	delete(sent.Header, headerTracestate)
	if w.tracestate != "" {
		sent.Header[headerTracestate] = []string{w.tracestate}
	}
	response, err := t.inner.RoundTrip(sent)
	switch {
	case err != nil:
		class, _ := classify(causeOf(ctx, err))
		fail(span, class)
		span.End()
	case !span.IsRecording():
		span.End()
	default:
		span.SetAttributes(semconv.HTTPResponseStatusCode(response.StatusCode), protocolVersion(response))
		if response.StatusCode/100 != 2 {
			// A redirect too: it is not followed, and the delivery has failed.
			fail(span, strconv.Itoa(response.StatusCode))
		}
		response.Body = &tracedBody{ReadCloser: response.Body, ctx: ctx, span: span}
	}
	return response, err
}

// causeOf is why a request ended: what ended its context, unless the address
// was refused, or else the error itself.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, errEgress) {
		return cause
	}
	return err
}

// requestAttributes describe a request without its query and its credentials.
func requestAttributes(r *http.Request, resends int) []attribute.KeyValue {
	u := *r.URL
	u.RawQuery, u.ForceQuery, u.User, u.Fragment, u.RawFragment = "", false, nil, "", ""
	port := 443
	if u.Scheme == "http" {
		port = 80
	}
	if n, err := strconv.Atoi(u.Port()); err == nil {
		port = n
	}
	attributes := append(make([]attribute.KeyValue, 0, 5),
		semconv.HTTPRequestMethodPost, semconv.URLFull(u.String()), semconv.ServerAddress(u.Hostname()), semconv.ServerPort(port))
	if resends > 0 {
		attributes = append(attributes, semconv.HTTPRequestResendCount(resends))
	}
	return attributes
}

func protocolVersion(r *http.Response) attribute.KeyValue {
	if r.ProtoMajor == 1 {
		return semconv.NetworkProtocolVersion("1." + strconv.Itoa(r.ProtoMinor))
	}
	return semconv.NetworkProtocolVersion(strconv.Itoa(r.ProtoMajor))
}

// timings write when a request came how far as events of its span. What a dial
// in the background tells after the span has ended is dropped by the span.
func timings(span trace.Span) *httptrace.ClientTrace {
	event := func(name string, err error, attributes ...attribute.KeyValue) {
		if err != nil {
			class, _ := classify(err)
			attributes = append(attributes, semconv.ErrorTypeKey.String(class))
		}
		span.AddEvent(name, trace.WithAttributes(attributes...))
	}
	return &httptrace.ClientTrace{
		DNSStart:          func(httptrace.DNSStartInfo) { event("dns start", nil) },
		DNSDone:           func(i httptrace.DNSDoneInfo) { event("dns done", i.Err) },
		ConnectStart:      func(_, address string) { event("connect start", nil, attribute.String("network.peer", address)) },
		ConnectDone:       func(_, _ string, err error) { event("connect done", err) },
		TLSHandshakeStart: func() { event("tls start", nil) },
		TLSHandshakeDone:  func(_ tls.ConnectionState, err error) { event("tls done", err) },
		GotConn: func(i httptrace.GotConnInfo) {
			span.SetAttributes(append(peer(i.Conn), attribute.Bool("userhero.connection.reused", i.Reused))...)
		},
		WroteRequest:         func(i httptrace.WroteRequestInfo) { event("request written", i.Err) },
		GotFirstResponseByte: func() { event("first byte", nil) },
	}
}

// peer is who is at the other end of a connection: the receiver or a proxy.
func peer(c net.Conn) []attribute.KeyValue {
	if c == nil || c.RemoteAddr() == nil {
		return nil
	}
	address, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return nil
	}
	return []attribute.KeyValue{semconv.NetworkPeerAddress(address.Addr().Unmap().String()), semconv.NetworkPeerPort(int(address.Port()))}
}

// tracedBody ends a request's span when its answer has been read.
type tracedBody struct {
	io.ReadCloser
	ctx  context.Context
	span trace.Span
}

func (b *tracedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		class, _ := classify(causeOf(b.ctx, err))
		fail(b.span, class)
	}
	return n, err
}

// Close implements io.Closer; the span ends once.
func (b *tracedBody) Close() error {
	err := b.ReadCloser.Close()
	b.span.End()
	return err
}
