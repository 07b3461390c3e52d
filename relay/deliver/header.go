package deliver

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/userhero/relay/queue"
)

// isOwnHeader reports whether the relay sends a header of this canonical name itself,
// or the header would break a request.
func isOwnHeader(canonical string) bool {
	return slices.Contains(ownHeaders, canonical) || strings.HasPrefix(canonical, "X-Userhero-")
}

var ownHeaders = []string{
	"Content-Type", "Content-Length", "Transfer-Encoding", "Connection", "Host", "Te", "Trailer", "Upgrade", "Expect",
	"User-Agent", "Accept-Encoding", "Traceparent", "Tracestate", "Webhook-Id", "Webhook-Timestamp", "Webhook-Signature",
	"Idempotency-Key", "X-Idempotency-Key", // net/http repeats requests that have one
}

// Fields whose values differ for each attempt.
const (
	ownContentType = iota
	ownEvent
	ownDelivery
	ownAttempt
	ownID
	ownTimestamp
	ownStandard
	ownSignature
	ownTraceparent
	ownFields
)

// ownNames spells the fields as documented. They are sent in this spelling.
var ownNames = [ownFields]string{
	ownContentType: "Content-Type",
	ownEvent:       "X-UserHero-Event",
	ownDelivery:    "X-UserHero-Delivery",
	ownAttempt:     "X-UserHero-Attempt",
	ownID:          "webhook-id",
	ownTimestamp:   "webhook-timestamp",
	ownStandard:    "webhook-signature",
	ownSignature:   "X-UserHero-Signature",
	ownTraceparent: headerTraceparent,
}

// templateHeader is the header of a webhook's requests, sorted by name. Attempts fill
// in the values of their own fields.
type templateHeader struct {
	fields     []queue.Header
	own        [ownFields]int // index of each field that an attempt fills in
	configured []bool         // for each field: it was configured and may be a secret
}

func newTemplate(w Config) (t templateHeader) {
	type field struct {
		queue.Header
		own        int // -1: the same for every attempt
		configured bool
	}
	fields := []field{
		{Header: queue.Header{Name: "User-Agent", Value: w.UserAgent}, own: -1},
	}
	accept := queue.Header{Name: "Accept", Value: "*/*"} // some firewalls reject requests without it with 403
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
		if w.Secret != "" || own == ownStandard && w.SigningKey != "" || own != ownStandard && own != ownSignature {
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
	var text strings.Builder // holds all values, so that they take one allocation
	text.Grow(192)
	var room [128]byte
	set := func(i int, value []byte) {
		begin := text.Len()
		text.Write(value)
		fields[own[i]].Value = text.String()[begin:]
	}
	fields[own[ownContentType]].Value = cmp.Or(m.MediaType, "application/json")
	fields[own[ownEvent]].Value = m.Type
	fields[own[ownDelivery]].Value = m.ID
	fields[own[ownID]].Value = m.ID
	timestamp := m.Started.Unix()
	set(ownAttempt, strconv.AppendInt(room[:0], int64(m.Number), 10))
	set(ownTimestamp, strconv.AppendInt(room[:0], timestamp, 10))
	var keyed []byte // the asymmetric signatures
	for _, k := range t.keysAt(m.Started) {
		keyed = k.AppendStandard(append(keyed, ' '), m.ID, timestamp, m.Body)
	}
	if t.secret == nil && keyed != nil {
		set(ownStandard, keyed[1:])
	}
	if t.secret != nil {
		plain, standard := t.secret, t.secret.AppendStandard(room[:0], m.ID, timestamp, m.Body)
		if t.Rotating(m.Started) {
			standard = t.previous.AppendStandard(append(standard, ' '), m.ID, timestamp, m.Body)
			if !present {
				plain = t.previous
			}
		}
		set(ownStandard, append(standard, keyed...))
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

// propagate adds the trace context of the request's span to its header.
func (s *sending) propagate(traceparent, tracestate string) {
	s.fields[s.target.template.own[ownTraceparent]].Value = traceparent
	if last := len(s.fields) - 1; s.fields[last].Name == headerTracestate {
		s.fields = s.fields[:last] // drop those of the request before
	}
	if tracestate != "" {
		s.fields = append(s.fields, queue.Header{Name: headerTracestate, Value: tracestate})
	}
}

// header returns the fields as an http.Header, with their spelling unchanged.
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

// RedactedValue replaces the value of a configured header in the attempt log.
const RedactedValue = "[redacted]"

// logged returns the header of the last request in the form of the attempt log. It
// changes the fields, so no request may be sent afterwards.
func (s *sending) logged() []queue.Header {
	for i, configured := range s.target.template.configured {
		if configured {
			s.fields[i].Value = RedactedValue // Guard: values of configured headers are not kept.
		}
	}
	return s.fields
}
