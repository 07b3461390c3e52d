package deliver

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"

	"github.com/hashicorp/go-retryablehttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/userhero/relay/queue"
)

// sending is one request of an attempt, with its quick retries. It is used for this
// request only and is the http.RoundTripper of its own client, so its state never
// affects another request.
//
// RoundTrip sets the header, below http.Client, because http.Client would copy it for
// redirects, which are never followed.
type sending struct {
	target *Receiver
	tracer trace.Tracer // nil: no spans
	body   []byte
	fields []queue.Header // header of its requests

	// The values that go-retryablehttp needs are here so that a sending is one
	// allocation.
	client  http.Client
	retries retryablehttp.Client
	request retryablehttp.Request
	trace   httptrace.ClientTrace

	// connected reports whether the present request has a connection. From then on the
	// receiver may have seen it.
	connected bool
	// handshaking reports whether the present request has a connection whose TLS
	// handshake has begun.
	handshaking bool
	requests    int // requests sent so far
	// lease is Message.Lease, and lost what it has said.
	lease interface{ Lost() bool }
	lost  bool

	// span is the span of the present request. It gets the attributes when it ends, all
	// at once.
	span       trace.Span
	attributes []attribute.KeyValue
}

func newSending(t *Receiver, m Message, present bool, a *queue.Attempt) *sending {
	return &sending{target: t, tracer: m.Tracer, body: m.Body, lease: m.Lease, fields: t.fill(m, present, a)}
}

// do sends the request.
func (s *sending) do(ctx context.Context) (*http.Response, error) {
	s.request.Request = s.target.request.WithContext(ctx)
	if err := s.request.SetBody(s.body); err != nil {
		return nil, err
	}
	s.client = http.Client{Transport: s, CheckRedirect: keepRedirect}
	s.retries = retryablehttp.Client{
		HTTPClient: &s.client,
		RetryMax:   wireRetries, RetryWaitMin: wireRetryMin, RetryWaitMax: wireRetryMax,
		Backoff:      retryablehttp.DefaultBackoff,
		ErrorHandler: retryablehttp.PassthroughErrorHandler,
		CheckRetry:   s.mayRetry,
	}
	return s.retries.Do(&s.request)
}

func keepRedirect(*http.Request, []*http.Request) error {
	return http.ErrUseLastResponse // Guard: redirects are answers.
}

// mayRetry allows another request within the attempt only if this one had no
// connection, so that the receiver cannot have seen it, and if a retry may help.
func (s *sending) mayRetry(ctx context.Context, _ *http.Response, err error) (bool, error) {
	if err == nil || ctx.Err() != nil || s.connected {
		return false, nil //nolint:nilerr // whether to retry; the error itself is passed on unchanged
	}
	switch classify(err) {
	case classRefused:
		return true, nil
	case classReset: // of a connection that was not yet established
		var op *net.OpError
		return errors.As(err, &op) && op.Op == "dial", nil
	case classDNS:
		return temporary(err), nil
	}
	return false, nil
}

// RoundTrip implements http.RoundTripper. There is no CloseIdleConnections:
// go-retryablehttp would call it after every failure and close connections to working
// receivers.
func (s *sending) RoundTrip(r *http.Request) (*http.Response, error) {
	s.connected, s.handshaking = false, false
	if s.tracer != nil {
		return s.traced(r)
	}
	s.trace = httptrace.ClientTrace{
		GotConn:           s.gotConn,
		TLSHandshakeStart: func() { s.handshaking = true },
	}
	return s.roundTrip(r)
}

// roundTrip sends the request with the sending's header and trace.
func (s *sending) roundTrip(r *http.Request) (*http.Response, error) {
	own := r.Header // set by http.Client from the URL's user and password
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), &s.trace))
	r.Header = s.header()
	maps.Copy(r.Header, own)
	return s.target.client.transport.RoundTrip(r)
}

// gotConn notes that the request has a connection, on which it is about to be written.
// If the lease is lost, it closes the connection, so that nothing is written.
func (s *sending) gotConn(i httptrace.GotConnInfo) {
	s.connected = true
	if s.lost = s.lease != nil && s.lease.Lost(); s.lost && i.Conn != nil {
		_ = i.Conn.Close()
	}
}

// progress describes how far a request came that has no connection.
func (s *sending) progress() string {
	if s.handshaking {
		return ": the receiver does not answer the start of TLS; " + helloAdvice
	}
	return ""
}
