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

// sending is one request of an attempt, with its quick retries. It lives as long
// as they do and is the http.RoundTripper of its own client, so that what it learns
// of one request never counts for another.
//
// The header is put on the request here, below http.Client, which would copy it
// for redirects that are never followed.
type sending struct {
	target *Receiver
	tracer trace.Tracer // nil: no spans
	body   []byte
	fields []queue.Header // of its requests' header

	// What go-retryablehttp works with, here so that a sending is one allocation.
	client  http.Client
	retries retryablehttp.Client
	request retryablehttp.Request
	trace   httptrace.ClientTrace

	// connected says that the request under way has a connection: from then on the
	// receiver may have seen it.
	connected bool
	// handshaking says that it has a connection, and that the TLS handshake has begun.
	handshaking bool
	requests    int // requests so far

	// span is that of the request under way. learnt are attributes that it gets at
	// its end, all at once.
	span       trace.Span
	attributes []attribute.KeyValue
}

func newSending(t *Receiver, m Message, present bool, a *queue.Attempt) *sending {
	return &sending{target: t, tracer: m.Tracer, body: m.Body, fields: t.fill(m, present, a)}
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

// mayRetry allows another request within the attempt only if this one surely never
// reached the receiver, for it had no connection, and if trying again may help.
func (s *sending) mayRetry(ctx context.Context, _ *http.Response, err error) (bool, error) {
	if err == nil || ctx.Err() != nil || s.connected {
		return false, nil //nolint:nilerr // whether to retry; the error itself is passed on unchanged
	}
	switch classify(err) {
	case classRefused:
		return true, nil
	case classReset: // of a connection that was about to be made
		var op *net.OpError
		return errors.As(err, &op) && op.Op == "dial", nil
	case classDNS:
		return temporary(err), nil
	}
	return false, nil
}

// RoundTrip implements http.RoundTripper. It has no CloseIdleConnections:
// go-retryablehttp calls that after every failure, and would close connections to
// receivers that are well.
func (s *sending) RoundTrip(r *http.Request) (*http.Response, error) {
	s.connected, s.handshaking = false, false
	if s.tracer != nil {
		return s.traced(r)
	}
	s.trace = httptrace.ClientTrace{
		GotConn:           func(httptrace.GotConnInfo) { s.connected = true },
		TLSHandshakeStart: func() { s.handshaking = true },
	}
	return s.roundTrip(r)
}

// roundTrip sends the request with the sending's header and trace.
func (s *sending) roundTrip(r *http.Request) (*http.Response, error) {
	own := r.Header // http.Client's: the user and password of a URL
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), &s.trace))
	r.Header = s.header()
	maps.Copy(r.Header, own)
	return s.target.client.transport.RoundTrip(r)
}

// progress says how far a request came that has no connection.
func (s *sending) progress() string {
	if s.handshaking {
		return ": the receiver does not answer the start of TLS; " + helloAdvice
	}
	return ""
}
