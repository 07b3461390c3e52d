package relay

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/lean"
)

// sending is an attempt on its way: the requests it makes, their context, and
// what they take along in it. Header and body go beside http.Client, which would
// copy them for redirects that are never followed.
//
// As a context it is what context.WithDeadlineCause makes of the attempt's. But
// timer and channel are only made for somebody who asks for Done, and over a
// connection that is open nobody does: there the deadline is the connection's.
// Then nobody else has kept it either, and the target's next attempt has it.
type sending struct {
	context.Context // the attempt's: ends it early, uncounted

	deadline time.Time
	target   *target
	request  retryablehttp.Request
	parcel   lean.Parcel
	wire     wire
	whole    atomic.Pointer[whole] // nil: nobody has asked for Done
}

// whole is a context with timer and channel.
type whole struct {
	context.Context
	cancel context.CancelFunc
}

type sendingKey struct{}

func newSending(t *target) *sending {
	s := &sending{target: t}
	s.request.Request = t.request.WithContext(s)
	s.parcel = lean.Parcel{To: t.place, Header: slices.Clone(t.fields)}
	s.wire.prepare()
	return s
}

// begin is the sending of one attempt; end must follow.
func (t *target) begin(ctx context.Context, m message) *sending {
	s := t.sendings.Get().(*sending)
	s.Context, s.deadline = ctx, m.started.Add(t.config.Timeout)
	s.parcel.Body, s.parcel.Cut = m.body, m.cut
	s.wire.tracer, s.wire.sent = m.tracer, 0
	return s
}

// end ends the context, or keeps it for the next attempt.
func (s *sending) end() {
	if w := s.whole.Load(); w != nil {
		w.cancel()
		return
	}
	if !s.parcel.Reused {
		return
	}
	s.Context, s.parcel.Body, s.parcel.Cut, s.wire.span = nil, nil, nil, nil
	s.target.sendings.Put(s)
}

// Deadline implements context.Context.
func (s *sending) Deadline() (time.Time, bool) { return s.deadline, true }

// Done implements context.Context.
func (s *sending) Done() <-chan struct{} {
	if s.whole.Load() == nil {
		ctx, cancel := context.WithDeadlineCause(s.Context, s.deadline, errTimeout)
		if !s.whole.CompareAndSwap(nil, &whole{ctx, cancel}) {
			cancel() // somebody asks at the same time
		}
	}
	return s.whole.Load().Done()
}

// Err implements context.Context.
func (s *sending) Err() error {
	if w := s.whole.Load(); w != nil {
		return w.Err()
	}
	if err := s.Context.Err(); err != nil {
		return err
	}
	if !time.Now().Before(s.deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

// Value implements context.Context.
func (s *sending) Value(key any) any {
	switch key.(type) {
	case sendingKey:
		return s
	case lean.ParcelKey:
		return &s.parcel
	}
	if w := s.whole.Load(); w != nil {
		return w.Value(key)
	}
	return s.Context.Value(key)
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

// ownNames are written as they are documented; over HTTP/1.1 receivers see them
// so.
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

// prepare makes the header that attempts have, but for the values that are
// their own.
func (t *target) prepare() {
	type field struct {
		lean.Field
		own        int // -1: the same for every attempt
		configured bool
	}
	fields := []field{
		{Field: lean.Field{Name: "Content-Type", Value: "application/json"}, own: -1},
		{Field: lean.Field{Name: "User-Agent", Value: t.userAgent}, own: -1},
	}
	for name, values := range t.config.Header {
		for _, v := range values {
			fields = append(fields, field{Field: lean.Field{Name: http.CanonicalHeaderKey(name), Value: v}, own: -1, configured: true})
		}
	}
	for own, name := range ownNames {
		if t.secret != nil || own != ownStandard && own != ownSignature {
			fields = append(fields, field{Field: lean.Field{Name: name}, own: own})
		}
	}
	slices.SortStableFunc(fields, func(a, b field) int { return strings.Compare(a.Name, b.Name) })
	for i, f := range fields {
		t.fields, t.configured = append(t.fields, f.Field), append(t.configured, f.configured)
		if f.own >= 0 {
			t.own[f.own] = i
		}
	}
}

// write puts into the header what one attempt has of its own.
func (s *sending) write(m message, present bool, a *queue.Attempt) {
	t := s.target
	header := s.parcel.Header[:len(t.fields)]
	var text strings.Builder // of all values: they are kept and let go together
	text.Grow(192)
	var room [128]byte
	set := func(own int, value []byte) {
		begin := text.Len()
		text.Write(value)
		header[t.own[own]].Value = text.String()[begin:]
	}
	header[t.own[ownEvent]].Value = m.typ
	header[t.own[ownDelivery]].Value = m.id
	header[t.own[ownID]].Value = m.id
	timestamp := m.started.Unix()
	set(ownAttempt, strconv.AppendInt(room[:0], int64(m.number), 10))
	set(ownTimestamp, strconv.AppendInt(room[:0], timestamp, 10))
	if t.secret != nil {
		plain, standard := t.secret, t.secret.appendStandard(room[:0], m.id, timestamp, m.body)
		if t.rotating(m.started) {
			standard = t.previous.appendStandard(append(standard, ' '), m.id, timestamp, m.body)
			if !present {
				plain = t.previous
			}
		}
		set(ownStandard, standard)
		set(ownSignature, plain.appendSignature(room[:0], m.body))
	}
	set(ownTraceparent, appendTraceparent(room[:0], a.TraceID, a.SpanID, a.TraceFlags))
	if m.test {
		header = append(header, lean.Field{Name: "X-UserHero-Test", Value: "true"})
	}
	if m.tracer == nil && m.trace.State != "" {
		header = append(header, lean.Field{Name: headerTracestate, Value: m.trace.State})
	}
	s.parcel.Header = header
}

// propagate has a request carry the context of its span.
func (s *sending) propagate(traceparent, tracestate string) {
	header := s.parcel.Header
	header[s.target.own[ownTraceparent]].Value = traceparent
	if last := len(header) - 1; header[last].Name == headerTracestate {
		header = header[:last] // of the request before
	}
	if tracestate != "" {
		header = append(header, lean.Field{Name: headerTracestate, Value: tracestate})
	}
	s.parcel.Header = header
}

// RedactedValue stands for the value of a configured header in the attempt log.
const RedactedValue = "[redacted]"

// logged is the header as the attempt log keeps it.
func (s *sending) logged() []queue.Header {
	list := make([]queue.Header, len(s.parcel.Header))
	for i, f := range s.parcel.Header {
		list[i] = queue.Header(f)
		if i < len(s.target.configured) && s.target.configured[i] {
			list[i].Value = RedactedValue // Guard: values of configured headers are not kept.
		}
	}
	return list
}

// complete is a transport that takes header and body of a request from the
// request itself: it puts them there.
type complete struct{ inner http.RoundTripper }

// RoundTrip implements http.RoundTripper. What http.Client has put into the
// request's own header (the user and password of a URL) counts where the
// attempt's has nothing of that name.
func (c complete) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	s := ctx.Value(sendingKey{}).(*sending)
	p, trace := &s.parcel, s.following()
	follow := trace.GotConn
	trace.GotConn = func(i httptrace.GotConnInfo) {
		if p.Connected = true; follow != nil {
			follow(i)
		}
	}
	whole := r.WithContext(httptrace.WithClientTrace(ctx, &trace))
	whole.Header = make(http.Header, len(p.Header))
	for _, f := range p.Header {
		whole.Header[f.Name] = append(whole.Header[f.Name], f.Value)
	}
	for name, values := range r.Header {
		if _, ok := whole.Header[name]; !ok {
			whole.Header[name] = values
		}
	}
	whole.ContentLength = int64(len(p.Body))
	whole.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(p.Body)), nil }
	whole.Body, _ = whole.GetBody() // never fails
	return c.inner.RoundTrip(whole)
}
