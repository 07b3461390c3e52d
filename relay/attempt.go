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
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/expression"
	"github.com/userhero/relay/relay/signature"
)

// errTimeout is the cause of an attempt's end by its own time limit.
var errTimeout = errors.New("no answer within the time limit")

// target is how one webhook is reached: settings that are compiled once and
// never change. An attempt under way keeps the target it began with.
type target struct {
	config    WebhookConfig // complete
	url       *url.URL      // as it goes out
	client    *client
	secret    *signature.Signer     // nil: nothing is signed
	previous  *signature.Signer     // nil: no rotation
	filter    *expression.Condition // nil: everything
	tls       TLSStatus
	userAgent string
	// refused is why nothing may go to the URL, whatever it resolves to.
	refused error
	// request is what every request is a copy of.
	request  *http.Request
	template template
	// described are the attributes of its requests' spans.
	described []attribute.KeyValue
	// requesting is what those start with, from the first on.
	requesting []trace.SpanStartOption
	prepared   sync.Once

	// usePresent says, during a rotation, that X-UserHero-Signature is made with
	// the present secret: that signature worked last.
	usePresent atomic.Bool
}

func newTarget(w WebhookConfig, c *client, userAgent string) (*target, error) {
	u, err := parseURL(w.URL)
	if errors.Is(err, errNoURL) {
		return nil, fmt.Errorf("url: %w", err)
	}
	t := &target{config: w, url: u, userAgent: userAgent, refused: c.egress.target(u), described: describe(u)}
	if err != nil {
		t.refused = fmt.Errorf("%w: %w", errEgress, err)
	}
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
	t.request = &http.Request{Method: http.MethodPost, URL: u, Header: make(http.Header)}
	t.template = newTemplate(w, userAgent)
	return t, nil
}

// newSigner is nil for an empty secret: nothing is signed.
func newSigner(secret string) (*signature.Signer, error) {
	if secret == "" {
		return nil, nil
	}
	return signature.NewSigner(secret)
}

// inherit takes over, from the target before, which signature worked last.
func (t *target) inherit(former *target) {
	if t.config.Secret == former.config.Secret && t.config.PreviousSecret == former.config.PreviousSecret {
		t.usePresent.Store(former.usePresent.Load())
	}
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
	} else {
		a.TraceID, a.TraceFlags = m.trace.TraceID, m.trace.Flags
		if a.TraceID == ([16]byte{}) {
			_, _ = rand.Read(a.TraceID[:]) // never fails
		}
		_, _ = rand.Read(a.SpanID[:])
	}
	// Promise 3: one deadline ends an attempt, whatever the receiver does.
	timed, cancel := context.WithDeadlineCause(ctx, m.started.Add(t.config.Timeout), errTimeout)
	defer cancel()

	rotating := t.rotating(m.started)
	present := !rotating || t.usePresent.Load()
	o := t.try(timed, m, present, &a)
	if rotating && mayBlameSignature(a.Status) {
		// The receiver knows one of the two secrets, and only one signature fits
		// the header. The other is tried at once, and remembered if it is right.
		if o = t.try(timed, m, !present, &a); o.ok {
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

// rotating reports whether the previous secret still signs.
func (t *target) rotating(now time.Time) bool {
	return t.previous != nil && (t.config.PreviousUntil.IsZero() || now.Before(t.config.PreviousUntil))
}

// mayBlameSignature reports whether an answer may mean that the signature is wrong.
// Receivers say that with many statuses; those left out have another meaning.
func mayBlameSignature(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusGone, http.StatusRequestEntityTooLarge, http.StatusTooManyRequests:
		return false
	}
	return status/100 == 4
}

// try sends one request within an attempt.
func (t *target) try(ctx context.Context, m message, present bool, a *queue.Attempt) outcome {
	a.Status, a.Error, a.ResponseHeaders, a.ResponseBody = 0, "", nil, nil
	if t.refused != nil {
		a.Error = redacted(t.refused)
		return outcome{class: classEgress}
	}
	s := newSending(t, m, present, a)
	response, err := s.do(ctx)
	a.RequestHeaders = s.logged() // as the last request carried them
	if err != nil {
		err = bare(causeOf(ctx, err))
		o := outcome{class: classify(err)}
		o.connection = !s.connected && o.class != classEgress && o.class != classRequest && o.class != classCanceled
		o.busy = o.connection || o.class == classTimeout
		switch {
		case errors.Is(err, errTimeout) && o.connection:
			a.Error = fmt.Sprintf("no connection within the time limit (%s)%s", t.config.Timeout, s.progress())
		case errors.Is(err, errTimeout):
			a.Error = fmt.Sprintf("%s (%s)", errTimeout, t.config.Timeout)
		default:
			a.Error = redacted(explained(err))
		}
		return o
	}
	defer func() { _ = response.Body.Close() }()
	a.Status = response.StatusCode
	a.ResponseHeaders = headerList(response.Header)
	if response.StatusCode >= 200 { // an upgraded connection's body would never end
		// The status stands, whatever happens to the body behind it (CONTRACT §2).
		a.ResponseBody = readBody(response.Body)
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

// readBody returns the beginning of an answer's body and reads on, within bounds,
// so that the connection can serve again. A body that breaks off, or does not end
// in time, is kept as far as it came.
func readBody(body io.Reader) []byte {
	if body == http.NoBody {
		return nil
	}
	room := kept.Get().(*[keptResponseBody]byte)
	defer kept.Put(room)
	n, err := io.ReadFull(body, room[:])
	if err == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(body, maxResponseBody-keptResponseBody)) // Promise 4: of an answer's body 64 KiB are read.
	}
	return bytes.Clone(room[:n])
}

// headerList is a header as the attempt log keeps it, by name.
func headerList(h http.Header) []queue.Header {
	if len(h) == 0 {
		return nil
	}
	var few [24]string
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
