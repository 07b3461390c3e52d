package relay

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-retryablehttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/userhero/relay/queue"
)

// errTimeout is the cause of an attempt's end by its own time limit.
var errTimeout = errors.New("no answer within the time limit")

// target is how one webhook is reached: settings that are compiled once and
// never change. An attempt under way keeps the target it began with.
type target struct {
	config    WebhookConfig // complete
	url       *url.URL
	client    *client
	secret    *signer // nil: nothing is signed
	previous  *signer // nil: no rotation
	filter    *filter // nil: everything
	tls       TLSStatus
	userAgent string
	// described are the attributes of its requests' spans.
	described []attribute.KeyValue
	// header has the headers that are the same for every attempt, of which
	// configured ones may be secrets.
	header     http.Header
	configured map[string]bool
	// usePresent says, during a rotation, that X-UserHero-Signature is made with
	// the present secret: the receiver has refused the previous one and taken
	// this.
	usePresent atomic.Bool
}

func newTarget(w WebhookConfig, c *client, userAgent string) (*target, error) {
	u, err := url.Parse(w.URL)
	if err != nil {
		return nil, errors.New("url: no URL")
	}
	u.Host = strings.TrimSuffix(u.Host, ":") // a port that is empty is none
	t := &target{config: w, url: u, userAgent: userAgent, described: describe(u), header: make(http.Header), configured: make(map[string]bool)}
	if t.client, t.tls, err = c.withTLS(w.TLS); err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	if t.secret, err = newSigner(w.Secret); err != nil {
		return nil, fmt.Errorf("secret: %w", err)
	}
	if t.previous, err = newSigner(w.PreviousSecret); err != nil {
		return nil, fmt.Errorf("previous secret: %w", err)
	}
	if w.Filter != "" {
		if t.filter, err = compileFilter(w.Filter); err != nil {
			return nil, fmt.Errorf("filter: %w", err)
		}
	}
	for name, values := range w.Header {
		name = http.CanonicalHeaderKey(name)
		t.header[name], t.configured[name] = values, true
	}
	t.header["Content-Type"] = []string{"application/json"}
	t.header["User-Agent"] = []string{userAgent}
	return t, nil
}

// message is what an attempt sends.
type message struct {
	id      string // of the delivery
	typ     string // of the event
	number  int    // of the attempt within its ladder, from 1
	body    []byte
	trace   queue.TraceContext // of the event
	tracer  trace.Tracer       // nil: no spans
	test    bool
	started time.Time
}

// outcome is what an attempt means for its delivery and its webhook.
type outcome struct {
	class      string // "ok", or what went wrong
	ok         bool
	canceled   bool          // by us: it does not count
	connection bool          // no connection was made
	busy       bool          // the receiver cannot keep up
	gone       bool          // 410: it wants no more
	retryAfter time.Duration // what the receiver asked for
}

// attempt makes one attempt and says what came of it. The context ends it
// early, uncounted; its own time limit is the webhook's.
func (t *target) attempt(ctx context.Context, m message) (queue.Attempt, outcome) {
	a := queue.Attempt{At: m.started.UTC()}
	if m.tracer != nil {
		sc := trace.SpanContextFromContext(ctx)
		a.TraceID, a.SpanID, a.TraceFlags = sc.TraceID(), sc.SpanID(), byte(sc.TraceFlags())
		ctx = onWire(ctx, &wire{tracer: m.tracer, request: t.described})
	} else {
		a.TraceID, a.TraceFlags = m.trace.TraceID, m.trace.Flags
		if a.TraceID == ([16]byte{}) {
			_, _ = rand.Read(a.TraceID[:]) // never fails
		}
		_, _ = rand.Read(a.SpanID[:])
	}
	limited, cancel := context.WithTimeoutCause(ctx, t.config.Timeout, errTimeout) // Promise 3: one deadline ends an attempt, whatever the receiver does.
	defer cancel()

	rotating := t.rotating(m.started)
	present := !rotating || t.usePresent.Load()
	o := t.try(limited, m, present, &a)
	if rotating && (a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden) {
		// The receiver knows one of the two secrets, and only one signature fits
		// the header: the other is tried at once, and remembered if it is right.
		if o = t.try(limited, m, !present, &a); o.ok {
			t.usePresent.Store(!present)
		}
	}
	a.Duration = time.Since(m.started)
	if ctx.Err() != nil && !o.ok && a.Status == 0 {
		o.canceled = true // Promise 1: an attempt that a stop cuts off does not count.
	}
	if !o.ok {
		a.ErrorClass = o.class
	}
	return a, o
}

// rotating tells whether the previous secret still signs.
func (t *target) rotating(now time.Time) bool {
	return t.previous != nil && (t.config.PreviousUntil.IsZero() || now.Before(t.config.PreviousUntil))
}

// try sends one request within an attempt.
func (t *target) try(ctx context.Context, m message, present bool, a *queue.Attempt) outcome {
	a.Status, a.Error, a.ResponseHeaders, a.ResponseBody = 0, "", nil, nil
	fail := func(class string, err error) outcome {
		a.Error = redacted(err)
		return outcome{class: class}
	}
	if err := t.client.egress.target(t.url); err != nil {
		return fail(classEgress, err)
	}
	header := t.headers(m, present, a)
	a.RequestHeaders = t.loggedHeaders(header)
	r, err := t.request(withSending(ctx, header, m.tracer != nil), m.body)
	if err != nil {
		return fail(classRequest, err)
	}
	response, err := t.client.http.Do(r)
	if w, ok := ctx.Value(wireKey{}).(*wire); ok {
		w.log(a.RequestHeaders)
	}
	if err != nil {
		err = causeOf(ctx, err)
		class, connection := classify(err)
		o := fail(class, err)
		if class == classTimeout {
			a.Error = fmt.Sprintf("%s (%s)", errTimeout, t.config.Timeout)
		}
		o.connection, o.busy = connection, connection || class == classTimeout
		return o
	}
	defer func() { _ = response.Body.Close() }()
	a.Status = response.StatusCode
	a.ResponseHeaders = headerList(response.Header)
	if response.StatusCode >= 200 {
		// An upgraded connection's body would never end.
		if err := t.readBody(response.Body, a); err != nil && ctx.Err() != nil {
			a.Status = 0
			if class, _ := classify(context.Cause(ctx)); class == classTimeout {
				a.Error = fmt.Sprintf("%s (%s)", errTimeout, t.config.Timeout)
				return outcome{class: classTimeout, busy: true}
			}
			return fail(classCanceled, context.Cause(ctx))
		}
	}
	if response.StatusCode/100 == 2 {
		return outcome{class: "ok", ok: true}
	}
	a.Error = "answered " + strconv.Itoa(response.StatusCode) + " " + http.StatusText(response.StatusCode)
	return outcome{
		class:      classOfStatus(response.StatusCode),
		busy:       response.StatusCode == http.StatusTooManyRequests || response.StatusCode == http.StatusServiceUnavailable,
		gone:       response.StatusCode == http.StatusGone,
		retryAfter: retryAfter(response.StatusCode, response.Header, time.Now()),
	}
}

// request is the request to send; its URL is shared by all, its header comes with
// the context.
func (t *target) request(ctx context.Context, body []byte) (*retryablehttp.Request, error) {
	plain := http.Request{
		Method: http.MethodPost, URL: t.url, Host: t.url.Host,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: make(http.Header),
	}
	r, err := retryablehttp.FromRequest(plain.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	return r, r.SetBody(body)
}

// readBody keeps the beginning of an answer's body and reads on, within
// bounds, so that the connection can serve again. A body that breaks off does
// not undo the status that came before it.
func (t *target) readBody(body io.Reader, a *queue.Attempt) error {
	if body == http.NoBody {
		return nil
	}
	limited := io.LimitReader(body, maxResponseBody) // Promise 4: of an answer's body 64 KiB are read.
	kept, err := io.ReadAll(io.LimitReader(limited, keptResponseBody))
	a.ResponseBody = kept
	if err == nil {
		_, err = io.Copy(io.Discard, limited)
	}
	return err
}

// headers writes names as they are documented; over HTTP/1.1 receivers see them
// so.
func (t *target) headers(m message, present bool, a *queue.Attempt) http.Header {
	const own = 10 // fields that are set here, at most
	h := make(http.Header, len(t.header)+own)
	maps.Copy(h, t.header)
	values := make([]string, 0, own)
	set := func(name, value string) {
		values = append(values, value)
		h[name] = values[len(values)-1 : len(values) : len(values)]
	}
	set("X-UserHero-Event", m.typ)
	set("X-UserHero-Delivery", m.id)
	set("X-UserHero-Attempt", strconv.Itoa(m.number))
	if m.test {
		set("X-UserHero-Test", "true")
	}
	set("webhook-id", m.id)
	timestamp := m.started.Unix()
	set("webhook-timestamp", strconv.FormatInt(timestamp, 10))
	if t.secret != nil {
		plain, standard := t.secret, t.secret.standardSignature(m.id, timestamp, m.body)
		if t.rotating(m.started) {
			standard += " " + t.previous.standardSignature(m.id, timestamp, m.body)
			if !present {
				plain = t.previous
			}
		}
		set("webhook-signature", standard)
		set("X-UserHero-Signature", plain.signature(m.body))
	}
	set(headerTraceparent, traceparent(a.TraceID, a.SpanID, a.TraceFlags))
	if m.tracer == nil && m.trace.State != "" {
		set(headerTracestate, m.trace.State)
	}
	return h
}

// loggedHeaders are the headers as the attempt log keeps them.
func (t *target) loggedHeaders(h http.Header) []queue.Header {
	list := headerList(h)
	for i := range list {
		if t.configured[list[i].Name] {
			list[i].Value = "[redacted]" // Guard: values of configured headers are not kept.
		}
	}
	return list
}

func headerList(h http.Header) []queue.Header {
	names := make([]string, 0, len(h))
	for name := range h {
		names = append(names, name)
	}
	slices.Sort(names)
	list := make([]queue.Header, 0, len(h))
	for _, name := range names {
		for _, v := range h[name] {
			list = append(list, queue.Header{Name: name, Value: v})
		}
	}
	return list
}
