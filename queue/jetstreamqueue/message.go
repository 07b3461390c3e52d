package jetstreamqueue

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/userhero/relay/queue"
)

// Headers of messages. Followers read only headers, so everything that they need is in one.
const (
	headerEvent  = "Userhero-Event"   // an eventHead
	headerRecord = "Userhero-Record"  // a recordHead
	headerCursor = "Userhero-Cursor"  // a cursor
	headerSweep  = "Userhero-Removal" // a removal
	// headerErasing holds an erasing.
	headerErasing = "Userhero-Erasing"
	headerToken   = "Userhero-Token" // distinguishes a repeat of a publish from another message
	headerKey     = "Userhero-Key"   // the claim of the idempotency key that an event was published under
	headerHold    = "Userhero-Hold"  // a hold: the message stands for an event that was redacted
)

// maxHeader is the most bytes that a project's name may take in an event's header. A server
// accepts headers of at most 64 KiB, so a longer name is stored in the body, before the
// document.
const maxHeader = 1 << 10

// eventHead holds what is stored with an event besides its document.
type eventHead struct {
	Type     string            `json:"type"`
	Created  int64             `json:"created"` // milliseconds since 1970
	Project  string            `json:"project,omitempty"`
	Long     int               `json:"long,omitempty"` // length of the project's name if it is in the body, before the document
	Feedback string            `json:"feedback,omitempty"`
	Replaces string            `json:"replaces,omitempty"` // an event's id
	Webhooks []queue.WebhookID `json:"webhooks,omitempty"`
	Trace    *traceHead        `json:"trace,omitempty"`
	// Origin and Answer belong to the submission that created the feedback. Each update
	// copies them, so that the newest event is enough to answer a repeat.
	Origin   []byte `json:"origin,omitempty"`
	Answer   []byte `json:"answer,omitempty"`
	Redacted bool   `json:"redacted,omitempty"`
}

type traceHead struct {
	ID    string `json:"id"`
	Span  string `json:"span"`
	Flags byte   `json:"flags,omitempty"`
	State string `json:"state,omitempty"`
}

// storedEvent is an event with fields that only the queue needs.
type storedEvent struct {
	queue.Event
	webhooks []queue.WebhookID
	origin   []byte
	answer   []byte
	claim    string    // of the idempotency key that it was published under
	at       time.Time // by the server's clock
	// place is the message in the stream of events: the event itself, or its hold after it
	// was redacted. latest reads it as the last message of the feedback.
	place uint64
	// latest is, in a hold, the feedback's latest event.
	latest uint64
	// kept are the deliveries of an event that was redacted. They have no records.
	kept map[queue.WebhookID]keptDelivery
}

// isHold reports whether the event was read from a hold, and lacks its document.
func (e *storedEvent) isHold() bool { return e.latest > 0 }

// isFor reports whether a webhook got the event when it was accepted.
func (e *storedEvent) isFor(w queue.WebhookID) bool { return slices.Contains(e.webhooks, w) }

// message is a stored message.
type message struct {
	seq     uint64
	subject string
	header  nats.Header
	data    []byte
	at      time.Time
}

// newEventMessage returns the message that stores an event.
func newEventMessage(subject string, e queue.Event, webhooks []queue.WebhookID, origin, answer []byte) (*nats.Msg, error) {
	h := eventHead{
		Type: e.Type, Created: e.Created.UnixMilli(), Project: e.Feedback.Project, Feedback: e.Feedback.ID,
		Webhooks: webhooks, Origin: origin, Answer: answer, Redacted: e.Redacted,
	}
	if !e.Replaces.IsZero() {
		h.Replaces = e.Replaces.String()
	}
	if t := e.Trace; t.TraceID != [16]byte{} {
		h.Trace = &traceHead{ID: hex.EncodeToString(t.TraceID[:]), Span: hex.EncodeToString(t.SpanID[:]), Flags: t.Flags, State: t.State}
	}
	body := e.Body
	if len(h.Project) > maxHeader {
		body = append([]byte(h.Project), body...)
		h.Project, h.Long = "", len(h.Project)
	}
	m := nats.NewMsg(subject)
	m.Data = body
	return m, setHead(m, headerEvent, h)
}

// messageWith returns a message with v in its body, as JSON.
func messageWith(subject string, v any) (*nats.Msg, error) {
	m := nats.NewMsg(subject)
	var err error
	m.Data, err = json.Marshal(v)
	return m, err
}

func setHead(m *nats.Msg, name string, head any) error {
	b, err := json.Marshal(head)
	if err != nil {
		return err
	}
	m.Header.Set(name, string(b))
	return nil
}

// head reads a header that setHead wrote.
func (m *message) head(name string, into any) error {
	if err := json.Unmarshal([]byte(m.header.Get(name)), into); err != nil {
		return fmt.Errorf("message %d on %s: its header %s cannot be read: %w", m.seq, m.subject, name, err)
	}
	return nil
}

// event reads a message of the stream of events: an event, or a hold. Without a body, as
// followers get it, Event.Body is empty.
func (q *Queue) event(m *message) (*storedEvent, error) {
	if m.header.Get(headerHold) == "" {
		return q.eventOf(m, m.seq)
	}
	var h hold
	if err := m.head(headerHold, &h); err != nil {
		return nil, err
	}
	e, err := q.eventOf(m, h.Of)
	if err == nil {
		e.latest = h.Latest
	}
	return e, err
}

// eventOf reads the event with a sequence number from a message.
func (q *Queue) eventOf(m *message, seq uint64) (*storedEvent, error) {
	var h eventHead
	if err := m.head(headerEvent, &h); err != nil {
		return nil, err
	}
	e := &storedEvent{
		Event: queue.Event{
			Type: h.Type, Feedback: queue.FeedbackID{Project: h.Project, ID: h.Feedback},
			Created: time.UnixMilli(h.Created).UTC(), Body: m.data, Redacted: h.Redacted,
		},
		webhooks: h.Webhooks, origin: h.Origin, answer: h.Answer, claim: m.header.Get(headerKey), at: m.at, place: m.seq,
	}
	if h.Long > 0 && len(m.data) >= h.Long {
		e.Feedback.Project, e.Body = string(m.data[:h.Long]), m.data[h.Long:]
	}
	if e.Body == nil {
		e.Body = []byte{}
	}
	e.ID = queue.NewEventID(e.Created, q.tags.of(seq), seq)
	if h.Replaces != "" {
		var err error
		if e.Replaces, err = queue.ParseEventID(h.Replaces); err != nil {
			return nil, fmt.Errorf("event %s: what it replaces: %w", e.ID, err)
		}
	}
	if t := h.Trace; t != nil {
		_, err1 := hex.Decode(e.Trace.TraceID[:], []byte(t.ID))
		_, err2 := hex.Decode(e.Trace.SpanID[:], []byte(t.Span))
		if err1 != nil || err2 != nil {
			return nil, fmt.Errorf("event %s: its trace context cannot be read", e.ID)
		}
		e.Trace.Flags, e.Trace.State = t.Flags, t.State
	}
	return e, nil
}

// recordHead is the stored state of one delivery. A delivery that waits in order, or
// succeeded at the first attempt, has no record. The last record of a delivery is its
// state. The body of a record is the attempt that led to it.
type recordHead struct {
	State    queue.State `json:"state"`
	Was      queue.State `json:"was,omitempty"` // state in the previous record; 0 if this is the first
	Origin   origin      `json:"origin"`        // what the delivery was before its first record
	Rung     int         `json:"rung,omitempty"`
	Attempts int         `json:"attempts,omitempty"`
	Due      int64       `json:"due,omitempty"`   // nanoseconds since 1970 by the servers' clock; 0 is at once
	Ended    int64       `json:"ended,omitempty"` // nanoseconds since 1970 by the servers' clock
	By       string      `json:"by"`              // the token of the lane's owner, or one of the following
	// Closed is set while the event is being redacted: the delivery is not requeued.
	Closed bool `json:"closed,omitempty"`
}

// Who writes a record without owning the lane.
const (
	byRequeue   = "requeue"
	byRedaction = "redact" // the delivery waited for a parked webhook, and ends
	byClosing   = "close"  // the event is redacted: see recordHead.Closed
)

// origin is what a delivery was before its first record.
type origin string

const (
	originFresh     origin = "fresh"     // it waited in order
	originDelivered origin = "delivered" // it succeeded at the first attempt, so cursors count it
	originNew       origin = "new"       // it did not exist
)

// record is a recordHead with the sequence number of its message; 0 means no record.
type record struct {
	recordHead
	seq uint64
}

func (r record) waits() bool { return r.seq > 0 && r.State.Waiting() }

// fill sets the fields of a delivery from its record.
func (q *Queue) fill(d *queue.Delivery, r record) {
	d.State, d.Rung, d.Attempts = r.State, r.Rung, r.Attempts
	if r.State.Waiting() {
		d.Due = q.localTime(r.Due)
	}
	d.Ended = q.localTime(r.Ended)
}

// cursor stores how far a lane has come with the events in order of acceptance. Of the
// events up to Head that the webhook gets, those in Gaps still wait. All others were
// delivered at the first attempt, or have a record.
type cursor struct {
	Head      uint64   `json:"head"`
	Gaps      []uint64 `json:"gaps,omitempty"` // ascending
	Taken     int64    `json:"taken"`          // how many events up to Head the webhook gets, without removed ones in Gaps
	Delivered int64    `json:"delivered"`      // how many of them were delivered at the first attempt
	By        string   `json:"by"`
	// Erasing is the last erasing message that the owner had read, if none of its events
	// was being attempted.
	Erasing uint64 `json:"erasing,omitempty"`
}

// has reports whether the lane has passed an event. The state of its delivery is then in a
// record or in the log.
func (c *cursor) has(seq uint64) bool { return seq <= c.Head && !slices.Contains(c.Gaps, seq) }

// floor returns the last event up to which no delivery waits in order.
func (c *cursor) floor() uint64 {
	if len(c.Gaps) > 0 {
		return c.Gaps[0] - 1
	}
	return c.Head
}

// logged is one delivery that succeeded at the first attempt, in the body of a cursor.
type logged struct {
	Seq     uint64       `json:"seq"`
	Ended   int64        `json:"ended"`
	Attempt attemptEntry `json:"attempt"`
}

// attemptEntry is the stored form of an attempt.
type attemptEntry struct {
	At       time.Time      `json:"at"`
	Duration time.Duration  `json:"duration"`
	Status   int            `json:"status,omitempty"`
	Error    string         `json:"error,omitempty"`
	Class    string         `json:"class,omitempty"`
	Request  []queue.Header `json:"request,omitempty"`
	Response []queue.Header `json:"response,omitempty"`
	Sent     []byte         `json:"sent,omitempty"`
	Body     []byte         `json:"body,omitempty"`
	Trace    string         `json:"trace,omitempty"`
	Span     string         `json:"span,omitempty"`
	Flags    byte           `json:"flags,omitempty"`
	Next     *time.Time     `json:"next,omitempty"`
}

func newAttemptEntry(a queue.Attempt) attemptEntry {
	e := attemptEntry{
		At: a.At, Duration: a.Duration, Status: a.Status, Error: a.Error, Class: a.ErrorClass,
		Request: a.RequestHeaders, Response: a.ResponseHeaders, Sent: a.RequestBody, Body: a.ResponseBody, Flags: a.TraceFlags,
	}
	if a.TraceID != [16]byte{} {
		e.Trace = hex.EncodeToString(a.TraceID[:])
	}
	if a.SpanID != [8]byte{} {
		e.Span = hex.EncodeToString(a.SpanID[:])
	}
	if !a.Next.IsZero() {
		e.Next = &a.Next
	}
	return e
}

func (e attemptEntry) attempt(number int) queue.Attempt {
	a := queue.Attempt{
		Number: number, At: e.At.UTC(), Duration: e.Duration, Status: e.Status, Error: e.Error, ErrorClass: e.Class,
		RequestHeaders: e.Request, ResponseHeaders: e.Response, RequestBody: e.Sent, ResponseBody: e.Body, TraceFlags: e.Flags,
	}
	_, _ = hex.Decode(a.TraceID[:], []byte(e.Trace)) // an unreadable trace counts as no trace
	_, _ = hex.Decode(a.SpanID[:], []byte(e.Span))
	if e.Next != nil {
		a.Next = e.Next.UTC()
	}
	return a
}
