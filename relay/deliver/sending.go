package deliver

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strconv"
	"strings"

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

	// connected says that the request under way has a connection: from then on the
	// receiver may have seen it.
	connected bool
	// securing says that it has a connection, and that TLS is being agreed on.
	securing bool
	sent     int // requests so far

	// span is that of the request under way. learnt are attributes that it gets at
	// its end, all at once.
	span   trace.Span
	learnt []attribute.KeyValue
}

func newSending(t *Receiver, m Message, present bool, a *queue.Attempt) *sending {
	return &sending{target: t, tracer: m.Tracer, body: m.Body, fields: t.fill(m, present, a)}
}

// do sends the request.
func (s *sending) do(ctx context.Context) (*http.Response, error) {
	request := retryablehttp.Request{Request: s.target.request.WithContext(ctx)}
	if err := request.SetBody(s.body); err != nil {
		return nil, err
	}
	client := retryablehttp.Client{
		HTTPClient: &http.Client{
			Transport:     s,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // Guard: redirects are answers.
		},
		RetryMax: wireRetries, RetryWaitMin: wireRetryMin, RetryWaitMax: wireRetryMax,
		Backoff:      retryablehttp.DefaultBackoff,
		ErrorHandler: retryablehttp.PassthroughErrorHandler,
		CheckRetry:   s.mayRetry,
	}
	return client.Do(&request)
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
	s.connected, s.securing = false, false
	if s.tracer != nil {
		return s.traced(r)
	}
	return s.roundTrip(r, &httptrace.ClientTrace{
		GotConn:           func(httptrace.GotConnInfo) { s.connected = true },
		TLSHandshakeStart: func() { s.securing = true },
	})
}

// roundTrip sends the request with the sending's header.
func (s *sending) roundTrip(r *http.Request, follow *httptrace.ClientTrace) (*http.Response, error) {
	own := r.Header // http.Client's: the user and password of a URL
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), follow))
	r.Header = s.header()
	maps.Copy(r.Header, own)
	return s.target.client.transport.RoundTrip(r)
}

// progress says how far a request came that has no connection.
func (s *sending) progress() string {
	if s.securing {
		return ": the receiver does not answer the start of TLS; " + helloAdvice
	}
	return ""
}

var errNoURL = errors.New("give an absolute http or https URL")

// isOwnHeader reports whether a canonical name is one that the relay sends itself, or
// that would break a request.
func isOwnHeader(canonical string) bool {
	return slices.Contains(ownHeaders, canonical) || strings.HasPrefix(canonical, "X-Userhero-")
}

var ownHeaders = []string{
	"Content-Type", "Content-Length", "Transfer-Encoding", "Connection", "Host", "Te", "Trailer", "Upgrade", "Expect",
	"User-Agent", "Accept-Encoding", "Traceparent", "Tracestate", "Webhook-Id", "Webhook-Timestamp", "Webhook-Signature",
	"Idempotency-Key", "X-Idempotency-Key", // net/http replays requests that carry one
}

// The fields whose values each attempt has of its own.
const (
	ownEvent = iota
	ownDelivery
	ownAttempt
	ownID
	ownTimestamp
	ownStandard
	ownSignature
	ownTraceparent
	ownFields
)

// ownNames are spelled as they are documented, and go out so.
var ownNames = [ownFields]string{
	ownEvent:       "X-UserHero-Event",
	ownDelivery:    "X-UserHero-Delivery",
	ownAttempt:     "X-UserHero-Attempt",
	ownID:          "webhook-id",
	ownTimestamp:   "webhook-timestamp",
	ownStandard:    "webhook-signature",
	ownSignature:   "X-UserHero-Signature",
	ownTraceparent: headerTraceparent,
}

// template is the header of a webhook's requests, by name: attempts fill in the
// values of their own fields.
type template struct {
	fields     []queue.Header
	own        [ownFields]int // where an attempt's own are
	configured []bool         // of each field: it was configured, and may be a secret
}

func newTemplate(w Config) (t template) {
	type field struct {
		queue.Header
		own        int // -1: the same for every attempt
		configured bool
	}
	fields := []field{
		{Header: queue.Header{Name: "Content-Type", Value: "application/json"}, own: -1},
		{Header: queue.Header{Name: "User-Agent", Value: w.UserAgent}, own: -1},
	}
	accept := queue.Header{Name: "Accept", Value: "*/*"} // some firewalls answer 403 to requests without one
	for name, values := range w.Header {
		if strings.EqualFold(name, accept.Name) {
			accept.Name = ""
		}
		for _, v := range values {
			fields = append(fields, field{Header: queue.Header{Name: name, Value: v}, own: -1, configured: true})
		}
	}
	if accept.Name != "" {
		fields = append(fields, field{Header: accept, own: -1})
	}
	for own, name := range ownNames {
		if w.Secret != "" || own != ownStandard && own != ownSignature {
			fields = append(fields, field{Header: queue.Header{Name: name}, own: own})
		}
	}
	slices.SortStableFunc(fields, func(a, b field) int { return strings.Compare(a.Name, b.Name) })
	for i, f := range fields {
		t.fields, t.configured = append(t.fields, f.Header), append(t.configured, f.configured)
		if f.own >= 0 {
			t.own[f.own] = i
		}
	}
	return t
}

// fill returns the header of one request.
func (t *Receiver) fill(m Message, present bool, a *queue.Attempt) []queue.Header {
	fields := make([]queue.Header, len(t.template.fields), len(t.template.fields)+2)
	copy(fields, t.template.fields)
	own := &t.template.own
	var text strings.Builder // of all values: they are kept and let go together
	text.Grow(192)
	var room [128]byte
	set := func(i int, value []byte) {
		begin := text.Len()
		text.Write(value)
		fields[own[i]].Value = text.String()[begin:]
	}
	fields[own[ownEvent]].Value = m.Type
	fields[own[ownDelivery]].Value = m.ID
	fields[own[ownID]].Value = m.ID
	timestamp := m.Started.Unix()
	set(ownAttempt, strconv.AppendInt(room[:0], int64(m.Number), 10))
	set(ownTimestamp, strconv.AppendInt(room[:0], timestamp, 10))
	if t.secret != nil {
		plain, standard := t.secret, t.secret.AppendStandard(room[:0], m.ID, timestamp, m.Body)
		if t.Rotating(m.Started) {
			standard = t.previous.AppendStandard(append(standard, ' '), m.ID, timestamp, m.Body)
			if !present {
				plain = t.previous
			}
		}
		set(ownStandard, standard)
		set(ownSignature, plain.AppendPlain(room[:0], m.Body))
	}
	set(ownTraceparent, appendTraceparent(room[:0], a.TraceID, a.SpanID, a.TraceFlags))
	if m.Test {
		fields = append(fields, queue.Header{Name: "X-UserHero-Test", Value: "true"})
	}
	if m.Tracer == nil && m.Trace.State != "" {
		fields = append(fields, queue.Header{Name: headerTracestate, Value: m.Trace.State})
	}
	return fields
}

// propagate has the request carry the context of its span.
func (s *sending) propagate(traceparent, tracestate string) {
	s.fields[s.target.template.own[ownTraceparent]].Value = traceparent
	if last := len(s.fields) - 1; s.fields[last].Name == headerTracestate {
		s.fields = s.fields[:last] // of the request before
	}
	if tracestate != "" {
		s.fields = append(s.fields, queue.Header{Name: headerTracestate, Value: tracestate})
	}
}

// header is the fields as net/http has them, with the names spelled as they are.
func (s *sending) header() http.Header {
	h := make(http.Header, len(s.fields))
	values := make([]string, len(s.fields))
	for i, f := range s.fields {
		values[i] = f.Value
		if before := h[f.Name]; before != nil {
			h[f.Name] = append(before, f.Value)
		} else {
			h[f.Name] = values[i : i+1 : i+1]
		}
	}
	return h
}

// RedactedValue stands for the value of a configured header in the attempt log.
const RedactedValue = "[redacted]"

// logged is the header of the last request as the attempt log keeps it. Nothing is
// sent after it.
func (s *sending) logged() []queue.Header {
	for i, configured := range s.target.template.configured {
		if configured {
			s.fields[i].Value = RedactedValue // Guard: values of configured headers are not kept.
		}
	}
	return s.fields
}

// parseURL reads a webhook's URL as it goes out. Its host is in ASCII; what RFC
// 3986 forbids raw in the path and the query is percent-encoded, and what is
// encoded already stays, byte for byte. The error is errNoURL, or why the host is
// refused: then the URL is returned too.
func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(encodeURL(s))
	if err != nil || u.Host == "" {
		return nil, errNoURL
	}
	host, err := asciiHost(u)
	if err == nil {
		u.Host = host
	}
	return u, err
}

// encodeURL encodes what may not stand raw behind the host.
func encodeURL(s string) string {
	_, rest, ok := strings.Cut(s, "://")
	if !ok {
		return s
	}
	i := strings.IndexAny(rest, "/?#")
	if i < 0 {
		return s
	}
	behind := rest[i:]
	b := []byte(s[:len(s)-len(behind)])
	for i := range len(behind) {
		c := behind[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~!$&'()*+,;=:@/?#", c) >= 0,
			c == '%' && i+2 < len(behind) && isHex(behind[i+1]) && isHex(behind[i+2]),
			c < ' ', c == 0x7f: // url.Parse refuses control characters
			b = append(b, c)
		default:
			const digits = "0123456789ABCDEF"
			b = append(b, '%', digits[c>>4], digits[c&15])
		}
	}
	return string(b)
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}
