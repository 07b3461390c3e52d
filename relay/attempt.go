package relay

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/expression"
	"github.com/userhero/relay/relay/lean"
)

// errTimeout is the cause of an attempt's end by its own time limit.
var errTimeout = errors.New("no answer within the time limit")

// target is how one webhook is reached: settings that are compiled once and
// never change. An attempt under way keeps the target it began with.
type target struct {
	config    WebhookConfig // complete
	url       *url.URL
	client    *client
	secret    *signer               // nil: nothing is signed
	previous  *signer               // nil: no rotation
	filter    *expression.Condition // nil: everything
	tls       TLSStatus
	userAgent string
	// refused is why nothing may go to the URL, whatever it resolves to.
	refused error
	// described are the attributes of its requests' spans.
	described []attribute.KeyValue
	// requesting is what those start with, from the first on.
	requesting []trace.SpanStartOption
	prepared   sync.Once

	// What attempts are made of, see sending.
	place   *lean.Place
	request http.Request
	fields  []lean.Field // by name; empty where the value is an attempt's own
	own     [ownFields]int
	// configured tells of each field whether it was configured, and may be a
	// secret.
	configured []bool
	sendings   sync.Pool

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
	t := &target{config: w, url: u, userAgent: userAgent, refused: c.egress.target(u), described: describe(u)}
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
		if t.filter, err = expression.CompileCondition(w.Filter); err != nil {
			return nil, fmt.Errorf("filter: %w", err)
		}
	}
	t.place = lean.NewPlace(u)
	t.request = http.Request{Method: http.MethodPost, URL: u, Header: make(http.Header)}
	t.prepare()
	t.sendings.New = func() any { return newSending(t) }
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
	cut     *lean.Cut // made when the context ends; nil where nobody does that
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
	} else {
		a.TraceID, a.TraceFlags = m.trace.TraceID, m.trace.Flags
		if a.TraceID == ([16]byte{}) {
			_, _ = rand.Read(a.TraceID[:]) // never fails
		}
		_, _ = rand.Read(a.SpanID[:])
	}
	s := t.begin(ctx, m) // Promise 3: one deadline ends an attempt, whatever the receiver does.
	defer s.end()

	rotating := t.rotating(m.started)
	present := !rotating || t.usePresent.Load()
	o := t.try(s, m, present, &a)
	if rotating && (a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden) {
		// The receiver knows one of the two secrets, and only one signature fits
		// the header: the other is tried at once, and remembered if it is right.
		if o = t.try(s, m, !present, &a); o.ok {
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
func (t *target) try(s *sending, m message, present bool, a *queue.Attempt) outcome {
	a.Status, a.Error, a.ResponseHeaders, a.ResponseBody = 0, "", nil, nil
	fail := func(class string, err error) outcome {
		a.Error = redacted(err)
		return outcome{class: class}
	}
	if t.refused != nil {
		return fail(classEgress, t.refused)
	}
	s.write(m, present, a)
	response, err := t.client.http.Do(&s.request)
	a.RequestHeaders = s.logged() // as the last request carried them
	if err != nil {
		err = causeOf(s, err)
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
		if err := t.readBody(response.Body, a); err != nil && s.Err() != nil {
			a.Status = 0
			if class, _ := classify(context.Cause(s)); class == classTimeout {
				a.Error = fmt.Sprintf("%s (%s)", errTimeout, t.config.Timeout)
				return outcome{class: classTimeout, busy: true}
			}
			return fail(classCanceled, context.Cause(s))
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

// kept has room for what is kept of answers.
var kept = sync.Pool{New: func() any { return new([keptResponseBody]byte) }}

// readBody keeps the beginning of an answer's body and reads on, within
// bounds, so that the connection can serve again. A body that breaks off does
// not undo the status that came before it.
func (t *target) readBody(body io.Reader, a *queue.Attempt) error {
	if body == http.NoBody {
		return nil
	}
	room := kept.Get().(*[keptResponseBody]byte)
	defer kept.Put(room)
	n, err := io.ReadFull(body, room[:])
	a.ResponseBody = bytes.Clone(room[:n])
	if err == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(body, maxResponseBody-keptResponseBody)) // Promise 4: of an answer's body 64 KiB are read.
	}
	return err
}

func headerList(h http.Header) []queue.Header {
	if len(h) == 0 {
		return nil
	}
	var few [16]string
	names := few[:0]
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
