// Package queue says what a durable queue of webhook deliveries is: its
// records, its errors, and the one interface every engine implements.
//
// The promise: what Enqueue acknowledged survives a killed process and a power
// loss, is handed out at least once to every webhook it was enqueued for, and
// keeps its bytes. The package knows nothing of HTTP, ladders or settings; it
// is told when a delivery is due and what became of an attempt.
//
// The life of one delivery:
//
//	Enqueue, Requeue
//	      │
//	      ▼
//	  ┌─────────┐  Next   ┌────────┐  Ack    ┌───────────┐
//	  │ pending │ ──────► │ leased │ ──────► │ delivered │
//	  └─────────┘         └────────┘         └───────────┘
//	      ▲    Defer       │  │  ▲ Next          │
//	      └────────────────┘  │  │               │ Requeue
//	  ┌──────────┐   Retry    │  │               ▼
//	  │ retrying │ ◄──────────┤  │           (pending)
//	  └──────────┘ ───────────┼──┘               ▲
//	                    Dead  ▼                  │ Requeue
//	                      ┌────────┐             │
//	                      │ failed │ ────────────┘
//	                      └────────┘
//
// "leased" is never stored: a process that dies loses its leases, and the
// deliveries are handed out again. That is where duplicates come from, and the
// only place.
package queue

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Errors that callers switch on, with errors.Is. An engine wraps them with
// what it was doing and, if there is one, the remedy.
var (
	// ErrFull: the engine takes no new events now: too many wait for a commit,
	// the disk is near full or max_disk is reached. What is stored still flows.
	ErrFull = errors.New("queue full")
	// ErrTooLarge: one event with its deliveries, or one change, is more than the
	// engine stores at once. It is refused whenever it comes.
	ErrTooLarge = errors.New("too large for the store")
	// ErrConflict: Entry.Replaces is not the latest event of that feedback, or
	// a webhook's revision has moved on. Read again and retry.
	ErrConflict = errors.New("conflict")
	// ErrExists: an entry creates a feedback that its project holds already, and
	// is no repeat of the submission that created it.
	ErrExists = errors.New("feedback exists")
	// ErrMismatch: an idempotency key came again with another body.
	ErrMismatch = errors.New("idempotency key reused with another body")
	// ErrNotFound: no such event, delivery, feedback or webhook.
	ErrNotFound = errors.New("not found")
	// ErrLeaseLost: the lease was settled before, or its lane was closed.
	ErrLeaseLost = errors.New("lease lost")
	// ErrClosed: the queue is closed, or was never opened.
	ErrClosed = errors.New("queue closed")
	// ErrUnavailable: the engine's servers have not answered for longer than an election
	// takes. Whether the call was carried out is not known; it can be made again.
	ErrUnavailable = errors.New("queue unavailable")
	// ErrFailed: the disk reported an error on writing; nothing is accepted
	// until the store has been reopened, because what the disk holds is unknown.
	ErrFailed = errors.New("store failed")
)

// Queue is one durable store. All methods may be called from any goroutine.
type Queue interface {
	// Enqueue stores one event and its deliveries in one transaction, and
	// returns when they are on disk. It creates a feedback, or replaces the latest
	// event of one: see Entry.Replaces. A repeat, known by its Key or, if it
	// creates a feedback, by its Origin, stores no event and returns the first
	// receipt with Replayed set. A refused entry leaves nothing, not even its key.
	// Errors: ErrFull, ErrTooLarge, ErrConflict, ErrExists, ErrMismatch, ErrUnavailable,
	// ErrFailed, ErrClosed.
	// After ErrUnavailable or a cancelled context the entry may or may not have been stored.
	Enqueue(ctx context.Context, e Entry) (Receipt, error)
	// Repeat returns the receipt that Enqueue gives to a repeat with this key:
	// ErrNotFound if nobody holds the key, ErrMismatch if the hash is another one.
	Repeat(ctx context.Context, k Key) (Receipt, error)

	// Lane opens the one lane of a webhook: its deliveries, and nobody else's.
	// A lane that is not opened keeps its deliveries waiting. Opening a lane
	// twice is ErrConflict.
	Lane(w WebhookID, o LaneOptions) (Lane, error)

	// Requeue gives a delivery a fresh ladder, whatever its state, first due
	// at `at`. Where the event has no delivery to that webhook, it makes one.
	// A delivery that waits already becomes due at `at`; a leased one is left
	// alone (ErrConflict).
	Requeue(ctx context.Context, d DeliveryID, at time.Time) error

	// Event returns one event; ErrNotFound also where retention took it.
	Event(ctx context.Context, id EventID) (Event, error)
	// Latest returns the newest event of a feedback.
	Latest(ctx context.Context, id FeedbackID) (Event, error)
	// Projects returns projects that hold a feedback with this id, at most limit
	// of them and in no order.
	Projects(ctx context.Context, id string, limit int) ([]string, error)
	// Events lists, newest first.
	Events(ctx context.Context, q EventQuery) (Page[Event], error)
	// Delivery returns one delivery.
	Delivery(ctx context.Context, id DeliveryID) (Delivery, error)
	// EventDeliveries returns every delivery of one event, by webhook id.
	EventDeliveries(ctx context.Context, id EventID) ([]Delivery, error)
	// Deliveries lists, newest event first.
	Deliveries(ctx context.Context, q DeliveryQuery) (Page[Delivery], error)
	// Attempts returns the attempts of one delivery, oldest first.
	Attempts(ctx context.Context, id DeliveryID) ([]Attempt, error)

	// Webhooks returns every webhook record, by id.
	Webhooks(ctx context.Context) ([]Webhook, error)
	// PutWebhook creates (Revision 0: the ID is assigned, never reused) or
	// replaces a webhook record if its Revision is still the stored one.
	PutWebhook(ctx context.Context, w Webhook) (Webhook, error)
	// DeleteWebhook removes the record if Revision is still the stored one,
	// cancels its waiting deliveries and returns how many those were. They hold
	// their events no longer: one that is older than the retention may go at once.
	DeleteWebhook(ctx context.Context, id WebhookID, revision uint64) (int64, error)

	// AppendActivity records one thing somebody or something did.
	AppendActivity(ctx context.Context, a Activity) error
	// Activities lists, newest first.
	Activities(ctx context.Context, limit int, cursor string) (Page[Activity], error)

	// KeepCaught keeps a submission that a honeypot has caught, so that somebody can
	// find what a person has sent. It returns when it is on disk. Errors are those of
	// Enqueue.
	KeepCaught(ctx context.Context, c Caught) error
	// Caught returns what honeypots caught within the last CaughtFor, newest first:
	// at most the newest MaxCaught.
	Caught(ctx context.Context) ([]Caught, error)

	// Stats reads counters kept in memory; it never scans.
	Stats() Stats
	// Health is nil while the queue takes events, else the reason with its
	// remedy; it wraps ErrFull, ErrUnavailable, ErrFailed or ErrClosed.
	Health() error
	// Close commits what was settled, then closes; leases are lost. It returns
	// when the store is closed or the context ends.
	Close(ctx context.Context) error
}

// Entry is one event to store, with the webhooks that get a delivery of it.
type Entry struct {
	// Type is the event type, "feedback.created" or "feedback.updated". Types
	// that begin with a dot are the relay's own (a mail to send): they are
	// delivered like others and appear in no list.
	Type string
	// Feedback is what the event is about; zero for the relay's own events.
	Feedback FeedbackID
	// Created is the time of acceptance; it becomes part of the EventID.
	Created time.Time
	// Body is the exact document. The queue keeps the slice: the caller must
	// not change it afterwards. Nil stores no event: the entry only binds its Key,
	// for a submission that changes nothing.
	Body []byte
	// Trace is the context of the span that created the event.
	Trace TraceContext
	// Webhooks get one delivery each; duplicates are ignored.
	Webhooks []WebhookID
	// Replaces must be the latest event of Feedback, else ErrConflict. Zero
	// creates the feedback: if there is one, ErrExists, except for a repeat.
	Replaces EventID
	// Key, unless its name is empty, names the submission for 24 hours.
	Key Key
	// Origin, unless zero, is a hash of the submission that creates Feedback. It
	// is kept as long as the feedback: another entry that creates the same
	// feedback with the same Origin is a repeat.
	Origin [32]byte
	// Answer is what the submitter is told, at most MaxAnswer bytes. It is kept
	// with Key and with Origin, and given to repeats.
	Answer []byte
}

// FeedbackID names a feedback. Two projects may use the same id.
type FeedbackID struct {
	Project string // empty for feedback without a project
	ID      string // 1 to MaxFeedbackID bytes; empty names nothing
}

// IsZero reports whether the id names nothing.
func (id FeedbackID) IsZero() bool { return id.ID == "" }

func (id FeedbackID) String() string {
	if id.Project == "" {
		return fmt.Sprintf("feedback %q without a project", id.ID)
	}
	return fmt.Sprintf("feedback %q of project %q", id.ID, id.Project)
}

// Bounds of an Entry, in bytes.
const (
	MaxFeedbackID = 256
	MaxKeyName    = 512
	MaxAnswer     = 4 << 10
)

// Check returns an error for an entry that no engine takes.
func (e *Entry) Check() error {
	switch {
	case len(e.Key.Name) > MaxKeyName:
		return fmt.Errorf("an idempotency key has at most %d bytes, not %d", MaxKeyName, len(e.Key.Name))
	case len(e.Feedback.ID) > MaxFeedbackID:
		return fmt.Errorf("a feedback id has at most %d bytes, not %d", MaxFeedbackID, len(e.Feedback.ID))
	case len(e.Answer) > MaxAnswer:
		return fmt.Errorf("an answer has at most %d bytes, not %d", MaxAnswer, len(e.Answer))
	case e.Feedback.IsZero() && (e.Feedback.Project != "" || !e.Replaces.IsZero() || e.Origin != [32]byte{}):
		return errors.New("an entry with a project, an origin or an event to replace needs a feedback id")
	case e.Body == nil && (e.Key.Name == "" || e.Replaces.IsZero()):
		return errors.New("an entry without a document needs an idempotency key and the event that it leaves as it is")
	}
	return nil
}

// Key makes a submission idempotent for 24 hours, even if its event is removed
// before.
type Key struct {
	Name string   // scoped by the caller; at most MaxKeyName bytes
	Hash [32]byte // of the request body; a key that comes with another hash is ErrMismatch
}

// Receipt is what Enqueue acknowledges.
type Receipt struct {
	// Event is the stored event. A repeat gets that of the first submission; it is
	// zero if that one stored none, or if the event has been removed since.
	Event Event
	// Replayed reports that the entry is a repeat and has stored nothing.
	Replayed bool
	// Answer is the Entry.Answer of the first submission.
	Answer []byte
}

// Event is one immutable stored document.
type Event struct {
	ID       EventID
	Type     string
	Feedback FeedbackID
	Created  time.Time // UTC, to the millisecond
	Trace    TraceContext
	// Replaces is the event of the same feedback before this one; zero is none.
	Replaces EventID
	Body     []byte // exact bytes; read-only
}

// TraceContext is a W3C trace context; the zero value is none.
type TraceContext struct {
	TraceID [16]byte
	SpanID  [8]byte
	Flags   byte
	State   string // tracestate, at most 512 bytes
}

// LaneOptions bound what a lane may have out at once.
type LaneOptions struct {
	// MaxInFlight bounds unsettled leases. Default 8.
	MaxInFlight int
	// Lease is how long a lease holds before another process may have the
	// delivery; longer than any attempt. Engines of one process ignore it.
	Lease time.Duration
}

// Lane hands out the due deliveries of one webhook: retries by due time, fresh
// ones in order of acceptance, the two in turns.
type Lane interface {
	// Next waits until a delivery is due and a place in flight is free, and
	// returns between 1 and max leases. It returns the context's error, or
	// ErrClosed. One goroutine at a time may call it.
	Next(ctx context.Context, max int) ([]*Lease, error)
	// Close ends the lane; unsettled leases are lost and their deliveries wait
	// for the next lane. Closing twice is fine.
	Close() error
}

// Lease is the right to attempt one delivery. It is settled exactly once, by
// one of its four methods; a second time is ErrLeaseLost. Settling does not
// wait for the disk: it may ride in a later commit, and a crash before that
// makes a duplicate, never a loss.
type Lease struct {
	Delivery Delivery
	Event    Event
	settler  Settler
}

// NewLease is for engines.
func NewLease(d Delivery, e Event, s Settler) *Lease {
	return &Lease{Delivery: d, Event: e, settler: s}
}

// Settler is the engine's side of a lease.
type Settler interface {
	Settle(l *Lease, s Settlement) error
	// Lost reports whether Settle would say ErrLeaseLost.
	Lost(l *Lease) bool
}

// Settlement is what became of a lease.
type Settlement struct {
	Kind    SettleKind
	At      time.Time // when due again, for SettleRetry and SettleDefer
	Attempt Attempt   // the attempt made; none for SettleDefer
}

// SettleKind names the four ways to settle a lease.
type SettleKind uint8

// The ways to settle a lease.
const (
	SettleAck SettleKind = iota + 1
	SettleRetry
	SettleDefer
	SettleDead
)

// Lost reports whether the lease is settled or lost: somebody else may have the
// delivery. Ask right before an attempt. A lease may be lost at any moment after.
func (l *Lease) Lost() bool { return l.settler.Lost(l) }

// Ack says that the receiver has it.
func (l *Lease) Ack(a Attempt) error {
	return l.settler.Settle(l, Settlement{Kind: SettleAck, Attempt: a})
}

// Retry says that the attempt failed: the delivery takes the next rung and is
// due at `at`.
func (l *Lease) Retry(at time.Time, a Attempt) error {
	return l.settler.Settle(l, Settlement{Kind: SettleRetry, At: at, Attempt: a})
}

// Defer gives the lease back unused (breaker, rate, order, shutdown): no
// attempt is counted. A zero time means at once.
func (l *Lease) Defer(at time.Time) error {
	return l.settler.Settle(l, Settlement{Kind: SettleDefer, At: at})
}

// Dead says that the last attempt failed: the delivery is failed and kept.
func (l *Lease) Dead(a Attempt) error {
	return l.settler.Settle(l, Settlement{Kind: SettleDead, Attempt: a})
}

// State is a delivery's stored state. "held" is not among them: a delivery
// that waits for a disabled or parked webhook reads as held, and the relay,
// which knows webhooks, says so.
type State uint8

// The stored states.
const (
	Pending State = iota + 1
	Retrying
	Delivered
	Failed
)

// Waiting reports whether the delivery has attempts to come.
func (s State) Waiting() bool { return s == Pending || s == Retrying }

func (s State) String() string {
	switch s {
	case Pending:
		return "pending"
	case Retrying:
		return "retrying"
	case Delivered:
		return "delivered"
	case Failed:
		return "failed"
	}
	return "unknown"
}

// Delivery is one event on its way to one webhook.
type Delivery struct {
	ID       DeliveryID
	Type     string     // of the event
	Feedback FeedbackID // of the event
	Created  time.Time
	State    State
	// Rung counts the failed attempts of the current ladder: 0 before the
	// first attempt and after Requeue.
	Rung int
	// Attempts counts all attempts ever made, over all ladders.
	Attempts int
	// Due is when the next attempt may be made; zero means at once, or never
	// where the delivery has ended.
	Due time.Time
	// Ended is when it was delivered or failed; zero while it waits, and where it
	// failed because its webhook was deleted.
	Ended time.Time
}

// Attempt is one signed POST and what came of it.
type Attempt struct {
	Number          int // 1… over all ladders of the delivery; the engine sets it
	At              time.Time
	Duration        time.Duration
	Status          int    // 0 if no answer came
	Error           string // empty on success; no URL query, no secret
	ErrorClass      string // "timeout", "dns", "refused", …; empty on success
	RequestHeaders  []Header
	ResponseHeaders []Header
	ResponseBody    []byte // at most 16 KiB
	TraceID         [16]byte
	SpanID          [8]byte
	TraceFlags      byte      // of W3C Trace Context; bit 0: sampled
	Next            time.Time // when the next attempt is due; zero if none is
}

// Header is one header field.
type Header struct{ Name, Value string }

// Webhook is a stored webhook. The queue knows its id, name and revision; what
// it is configured to do and how it fares are the relay's, kept as bytes.
type Webhook struct {
	ID       WebhookID
	Name     string // unique among records
	Revision uint64 // moves on with each PutWebhook
	// Expires says that the waiting deliveries of this webhook are parked: they
	// may be taken by retention.
	Expires bool
	Data    []byte
}

// Activity is one line of the activity log.
type Activity struct {
	ID   string // set by the engine; sorts by time
	At   time.Time
	Data []byte // the relay's
}

// Bounds of what is kept of a honeypot's catch.
const (
	MaxCaught = 1000
	CaughtFor = 24 * time.Hour
)

// Caught is a submission that a honeypot has caught. It is no event: it has no
// deliveries and appears in no other list.
type Caught struct {
	At   time.Time // UTC, to the millisecond
	Body []byte    // the document of the event that it did not become; read-only
}

// EventQuery selects events. The zero value selects all.
type EventQuery struct {
	Type         string
	FeedbackID   string    // in any project, unless ProjectID is set
	ProjectID    string    // empty is all
	Since, Until time.Time // of acceptance: Since ≤ created < Until
	// Match reports whether an event with this body is wanted; nil is all. It is
	// called from one goroutine and must not keep the slice.
	Match  func(body []byte) bool
	Limit  int    // 1–1,000; default 50
	Cursor string // of the page before
}

// DeliveryQuery selects deliveries. The zero value selects all.
type DeliveryQuery struct {
	Webhook      WebhookID // 0 is all
	States       []State   // none is all
	Since, Until time.Time // of the event's acceptance
	Limit        int       // 1–1,000; default 50
	Cursor       string
}

// Page is one page of a list. Next is empty at the end. A page may hold fewer
// rows than asked for, or none, while Next is set: engines bound the work of
// one call.
type Page[T any] struct {
	Items []T
	Next  string
}

// Counts are deliveries by stored state.
type Counts struct {
	Pending, Retrying, Delivered, Failed int64
}

// Waiting is how many deliveries have attempts to come.
func (c Counts) Waiting() int64 { return c.Pending + c.Retrying }

// Add returns the sum.
func (c Counts) Add(d Counts) Counts {
	return Counts{c.Pending + d.Pending, c.Retrying + d.Retrying, c.Delivered + d.Delivered, c.Failed + d.Failed}
}

// Count adds n deliveries of a state.
func (c *Counts) Count(s State, n int64) {
	switch s {
	case Pending:
		c.Pending += n
	case Retrying:
		c.Retrying += n
	case Delivered:
		c.Delivered += n
	case Failed:
		c.Failed += n
	}
}

// Stats is a reading of the engine's counters.
type Stats struct {
	Events    int64 // stored now
	Webhooks  map[WebhookID]WebhookStats
	DiskBytes int64         // the store's files
	DiskFree  int64         // of their file system, for us; -1 if unknown
	Commit    time.Duration // a moving average of one durable commit
}

// WebhookStats are one webhook's counters.
type WebhookStats struct {
	Counts
	// OldestDue is since when its oldest due delivery has been waiting for its
	// attempt; zero if nothing is due.
	OldestDue time.Time
}
