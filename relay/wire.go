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
	"net/url"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// wire follows the requests of one attempt onto the wire, where each gets a
// span of its own: go-retryablehttp may send a request again, and while a
// secret is rotated a second one may follow.
type wire struct {
	tracer  trace.Tracer
	request []attribute.KeyValue // the attributes that all requests have
	sent    int                  // requests so far
}

type wireKey struct{}

// onWire makes requests with the returned context part of the attempt.
func onWire(ctx context.Context, w *wire) context.Context {
	return context.WithValue(ctx, wireKey{}, w)
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
	w, ok := r.Context().Value(wireKey{}).(*wire)
	if !ok {
		return t.inner.RoundTrip(r)
	}
	ctx, span := w.tracer.Start(r.Context(), http.MethodPost, sender)
	if span.IsRecording() {
		span.SetAttributes(w.request...)
		if w.sent > 0 {
			span.SetAttributes(semconv.HTTPRequestResendCount(w.sent))
		}
		ctx = httptrace.WithClientTrace(ctx, timings(span))
	}
	w.sent++
	sc := span.SpanContext()
	ctx.Value(sendingKey{}).(*sending).propagate(
		string(appendTraceparent(nil, sc.TraceID(), sc.SpanID(), byte(sc.TraceFlags()))), sc.TraceState().String())
	response, err := t.inner.RoundTrip(r.WithContext(ctx))
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

// describe are the attributes of requests to a URL, without its query.
func describe(to *url.URL) []attribute.KeyValue {
	u := *to
	u.RawQuery, u.ForceQuery, u.User, u.Fragment, u.RawFragment = "", false, nil, "", ""
	port := 443
	if u.Scheme == "http" {
		port = 80
	}
	if n, err := strconv.Atoi(u.Port()); err == nil {
		port = n
	}
	return []attribute.KeyValue{
		semconv.HTTPRequestMethodPost, semconv.URLFull(u.String()), semconv.ServerAddress(u.Hostname()), semconv.ServerPort(port),
	}
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
	done := func(name string, err error) {
		if err == nil {
			span.AddEvent(name)
			return
		}
		class, _ := classify(err)
		span.AddEvent(name, trace.WithAttributes(semconv.ErrorTypeKey.String(class)))
	}
	return &httptrace.ClientTrace{
		DNSStart: func(httptrace.DNSStartInfo) { span.AddEvent("dns start") },
		DNSDone:  func(i httptrace.DNSDoneInfo) { done("dns done", i.Err) },
		ConnectStart: func(_, address string) {
			span.AddEvent("connect start", trace.WithAttributes(attribute.String("network.peer", address)))
		},
		ConnectDone:          func(_, _ string, err error) { done("connect done", err) },
		TLSHandshakeStart:    func() { span.AddEvent("tls start") },
		TLSHandshakeDone:     func(_ tls.ConnectionState, err error) { done("tls done", err) },
		GotConn:              func(i httptrace.GotConnInfo) { span.SetAttributes(peer(i)...) },
		WroteRequest:         func(i httptrace.WroteRequestInfo) { done("request written", i.Err) },
		GotFirstResponseByte: func() { span.AddEvent("first byte") },
	}
}

// peer is who is at the other end of a connection, the receiver or a proxy, and
// whether it has served before.
func peer(i httptrace.GotConnInfo) []attribute.KeyValue {
	attributes := append(make([]attribute.KeyValue, 0, 3), attribute.Bool("userhero.connection.reused", i.Reused))
	if a, ok := i.Conn.RemoteAddr().(*net.TCPAddr); ok {
		address := a.AddrPort()
		attributes = append(attributes, semconv.NetworkPeerAddress(address.Addr().Unmap().String()), semconv.NetworkPeerPort(int(address.Port())))
	}
	return attributes
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
