// Package queue defines a durable queue of webhook deliveries: its records, its errors,
// and the one interface that every engine implements.
//
// It promises that an event which Enqueue acknowledged survives a killed process and a
// power loss, is handed out at least once to every webhook it was enqueued for, and
// keeps its bytes. The package does not know HTTP, ladders or settings: the caller says
// when a delivery is due and what an attempt resulted in.
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
// "leased" is never stored: a process that dies loses its leases, and the deliveries
// are handed out again. This is the only cause of duplicates.
package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Errors for errors.Is. An engine wraps them with what it was doing and, if there is
// one, the remedy.
var (
	// ErrFull: the engine takes no new events now, because too many wait for a commit,
	// the disk is almost full, or max_disk is reached. Stored events are still
	// delivered.
	ErrFull = errors.New("queue full")
	// ErrTooLarge: one event with its deliveries, or one change, is larger than the
	// engine can store at once. A retry fails too.
	ErrTooLarge = errors.New("too large for the store")
	// ErrConflict: Entry.Replaces is not the latest event of its feedback, or a
	// webhook's revision has changed. Read again and retry.
	ErrConflict = errors.New("conflict")
	// ErrExists: an entry creates a feedback that its project already has, and is not a
	// repeat of the submission that created it.
	ErrExists = errors.New("feedback exists")
	// ErrMismatch: an idempotency key was used again with another body.
	ErrMismatch = errors.New("idempotency key reused with another body")
	// ErrErased: the feedback was erased. It is never stored again.
	ErrErased = errors.New("the feedback was erased")
	// ErrRedacted: the event was redacted, so it is not delivered again, and its feedback
	// does not change.
	ErrRedacted = errors.New("the feedback was redacted")
	// ErrNotFound: there is no such event, delivery, feedback or webhook.
	ErrNotFound = errors.New("not found")
	// ErrLeaseLost: the lease was already settled, or its lane was closed.
	ErrLeaseLost = errors.New("lease lost")
	// ErrClosed: the queue is closed or was never opened.
	ErrClosed = errors.New("queue closed")
	// ErrUnavailable: the engine's servers have not answered for longer than an
	// election takes, or its disk for seconds. The call may or may not have been carried
	// out. The caller can repeat it.
	ErrUnavailable = errors.New("queue unavailable")
	// ErrFailed: the disk reported a write error. Nothing is accepted until the store
	// is reopened, because the contents of the disk are unknown.
	ErrFailed = errors.New("store failed")
)

// BegunError is an ErrUnavailable of Enqueue: another relay has begun to store a submission
// with the same key and hash, as the creation of Feedback, and was killed perhaps. The caller
// may enqueue an entry with the same key that creates Feedback. If the other relay goes on
// nevertheless, only one of the two is stored, and both get its receipt.
type BegunError struct{ Feedback FeedbackID }

func (e *BegunError) Error() string {
	return fmt.Sprintf("another relay has begun to store this submission as %s, and has not ended", e.Feedback)
}

// Unwrap returns ErrUnavailable.
func (*BegunError) Unwrap() error { return ErrUnavailable }

// Queue is a durable store. All methods may be called from any goroutine. Several
// relays may work on one store, each with a Queue of its own: see Registry and Lane.
type Queue interface {
	Reader
	Registry

	// Enqueue stores one event and its deliveries in one transaction and returns when
	// they are on disk. It creates a feedback, or replaces the latest event of one: see
	// Entry.Replaces. A repeat is recognised by its Key or, if it creates a feedback,
	// by its Origin. It stores no event and gets the first receipt, with Replayed set.
	// A rejected entry stores nothing, not even its key.
	// Errors: ErrFull, ErrTooLarge, ErrConflict, ErrExists, ErrMismatch, ErrErased,
	// ErrRedacted, ErrUnavailable, BegunError, ErrFailed, ErrClosed. After ErrUnavailable or a cancelled
	// context, the entry may or may not have been stored.
	Enqueue(ctx context.Context, e Entry) (Receipt, error)
	// Repeat returns the receipt that Enqueue gives to a repeat with this key. It
	// returns ErrNotFound if the key is not bound, ErrMismatch if it is bound to
	// another hash, and ErrErased if its feedback was erased.
	Repeat(ctx context.Context, k Key) (Receipt, error)

	// Lane opens the lane of a webhook, which hands out this webhook's deliveries.
	// Without an open lane they wait. A webhook has at most one open lane in each relay:
	// opening a second one is ErrConflict. It does not wait for ownership: see Lane.
	Lane(w WebhookID, o LaneOptions) (Lane, error)

	// Requeue gives a delivery a fresh ladder, whatever its state, first due at `at`.
	// If the event has no delivery to that webhook, Requeue creates one. If the
	// delivery is waiting, it becomes due at `at`. If it is leased, it does not change,
	// and Requeue returns ErrConflict. If the event was redacted, it is ErrRedacted.
	Requeue(ctx context.Context, d DeliveryID, at time.Time) error

	// AppendActivity adds an entry to the activity log.
	AppendActivity(ctx context.Context, a Activity) error
	// KeepCaught keeps a submission that a honeypot caught, so that an operator can
	// find one that a person sent. It returns when the submission is on disk. It
	// returns the errors of Enqueue.
	KeepCaught(ctx context.Context, c Caught) error

	// Health returns nil while the queue takes events. Otherwise it returns the reason
	// with its remedy, which wraps ErrFull, ErrUnavailable, ErrFailed or ErrClosed.
	Health() error
	// Close commits all settlements, then closes the store. Leases are lost. It returns
	// when the store is closed or the context ends.
	Close(ctx context.Context) error
}

// Entry is one event to store, with the webhooks that get it.
type Entry struct {
	// Type is the event type, "feedback.created" or "feedback.updated". Types that
	// begin with a dot are the relay's own, such as notices: they are delivered but
	// appear in no list.
	Type string
	// Feedback is the feedback that the event is about; zero for the relay's own
	// events.
	Feedback FeedbackID
	// Created is the time of acceptance. It becomes part of the EventID.
	Created time.Time
	// Body is the document. The queue keeps the slice, so the caller must not change it
	// afterwards. If Body is nil, no event is stored: the entry only binds its Key, for
	// a submission that changes nothing.
	Body []byte
	// Trace is the context of the span that created the event.
	Trace TraceContext
	// Webhooks get one delivery each. Duplicates are ignored.
	Webhooks []WebhookID
	// Replaces must be the latest event of Feedback, else Enqueue returns ErrConflict.
	// If it is zero, the entry creates the feedback. If the feedback exists and the
	// entry is no repeat, Enqueue returns ErrExists.
	Replaces EventID
	// Key identifies the submission for 24 hours. A key with an empty name is ignored.
	Key Key
	// Origin is a hash of the submission that creates Feedback. It is kept as long as
	// the feedback. Another entry that creates the same feedback with the same Origin
	// is a repeat. A zero Origin is ignored.
	Origin [32]byte
	// Answer is the response to the submission, at most MaxAnswer bytes. It is kept
	// with Key and with Origin and returned to repeats.
	Answer []byte
}

// FeedbackID identifies a feedback. Two projects may use the same ID.
type FeedbackID struct {
	Project string // empty if the feedback has no project
	ID      string // 1 to MaxFeedbackID bytes; empty for no feedback
}

// IsZero reports whether the id is empty.
func (id FeedbackID) IsZero() bool { return id.ID == "" }

func (id FeedbackID) String() string {
	if id.Project == "" {
		return fmt.Sprintf("feedback %q without a project", id.ID)
	}
	return fmt.Sprintf("feedback %q of project %q", id.ID, id.Project)
}

// Bounds of an Entry in bytes.
const (
	MaxFeedbackID = 256
	MaxKeyName    = 512
	MaxAnswer     = 4 << 10
)

// Check returns an error for an entry that every engine rejects.
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

// Key makes a submission idempotent for 24 hours, even if its event is removed earlier.
type Key struct {
	Name string   // the caller makes it unique; at most MaxKeyName bytes
	Hash [32]byte // of the request body; a known key with another hash is ErrMismatch
}

// Receipt is the result of Enqueue.
type Receipt struct {
	// Event is the stored event. A repeat gets the event of the first submission. It is
	// zero if that stored none, or if the event has been removed since.
	Event Event
	// Replayed reports that the entry is a repeat and stored nothing.
	Replayed bool
	// Answer is the Entry.Answer of the first submission.
	Answer []byte
}

// Event is one stored document. It never changes, unless it is redacted.
type Event struct {
	ID       EventID
	Type     string
	Feedback FeedbackID
	Created  time.Time // UTC, to the millisecond
	Trace    TraceContext
	// Replaces is the previous event of the same feedback; zero if there is none.
	Replaces EventID
	Body     []byte // exact bytes; read-only
	// Redacted reports that Body is what Limits.Redact has made of the document.
	Redacted bool
}

// TraceContext is a W3C trace context. The zero value means none.
type TraceContext struct {
	TraceID [16]byte
	SpanID  [8]byte
	Flags   byte
	State   string // tracestate, at most 512 bytes
}

// LaneOptions bound the leases of a lane.
type LaneOptions struct {
	// MaxInFlight bounds unsettled leases. Default 8.
	MaxInFlight int
	// Lease is how long a lease lasts before another process may get the delivery. It
	// must be longer than any attempt. Engines with a single process ignore it.
	Lease time.Duration
}

// Lane hands out the due deliveries of one webhook. Retries come by due time, fresh
// deliveries in order of acceptance, and the two kinds take turns.
//
// If several relays have opened the lane of a webhook, one of them owns it, and the
// others wait. When the owner closes the lane, another relay owns it within a second;
// when the owner dies, after the time that the engine states. A relay that no longer
// owns the lane has lost its leases, and waits like the others.
type Lane interface {
	// Next waits until this relay owns the lane, a delivery is due and a place in flight
	// is free, then returns between 1 and max leases. It returns the context's error, or
	// ErrClosed. Only one goroutine at a time may call it.
	Next(ctx context.Context, max int) ([]*Lease, error)
	// Owned reports whether this relay owns the lane now.
	Owned() bool
	// Sync waits until everything that was settled before the call is durable. It
	// returns the context's error, ErrLeaseLost if the lane was lost meanwhile, or the
	// error of the store.
	Sync(ctx context.Context) error
	// Close ends the lane. Unsettled leases are lost, and their deliveries wait for the
	// next lane. Close may be called twice.
	Close() error
}

// Lease is the right to attempt one delivery. Settle it exactly once, with one of its
// four methods; a second call returns ErrLeaseLost. Settling does not wait for the
// disk: it may become durable with a later commit, and Lane.Sync waits for it. A crash
// before that causes a duplicate, never a loss.
type Lease struct {
	Delivery Delivery
	Event    Event
	settler  Settler
}

// NewLease makes a lease. Only engines call it.
func NewLease(d Delivery, e Event, s Settler) *Lease {
	return &Lease{Delivery: d, Event: e, settler: s}
}

// Settler is the part of an engine that settles leases.
type Settler interface {
	Settle(l *Lease, s Settlement) error
	// Lost reports whether Settle would return ErrLeaseLost.
	Lost(l *Lease) bool
}

// Settlement is the result of a lease.
type Settlement struct {
	Kind    SettleKind
	At      time.Time // when due again, for SettleRetry and SettleDefer
	Attempt Attempt   // the attempt; zero for SettleDefer
}

// SettleKind is one of the four ways to settle a lease.
type SettleKind uint8

// The ways to settle a lease.
const (
	SettleAck SettleKind = iota + 1
	SettleRetry
	SettleDefer
	SettleDead
)

// Lost reports whether the lease is settled or lost, so that another holder may have
// the delivery. Call it right before an attempt. A lease can still be lost afterwards.
func (l *Lease) Lost() bool { return l.settler.Lost(l) }

// Ack settles the lease: the receiver has the event.
func (l *Lease) Ack(a Attempt) error {
	return l.settler.Settle(l, Settlement{Kind: SettleAck, Attempt: a})
}

// Retry settles the lease after a failed attempt: the delivery takes the next rung and
// is due at `at`.
func (l *Lease) Retry(at time.Time, a Attempt) error {
	return l.settler.Settle(l, Settlement{Kind: SettleRetry, At: at, Attempt: a})
}

// Defer gives the lease back without an attempt (breaker, rate, order, shutdown). No
// attempt is counted. If `at` is zero, the delivery is due at once.
func (l *Lease) Defer(at time.Time) error {
	return l.settler.Settle(l, Settlement{Kind: SettleDefer, At: at})
}

// Dead settles the lease after the last attempt failed: the delivery is failed and
// kept.
func (l *Lease) Dead(a Attempt) error {
	return l.settler.Settle(l, Settlement{Kind: SettleDead, Attempt: a})
}

// State is a delivery's stored state. "held" is not stored: the relay shows it for a
// delivery that waits for a disabled or parked webhook.
type State uint8

// The stored states.
const (
	Pending State = iota + 1
	Retrying
	Delivered
	Failed
)

// Waiting reports whether the delivery still has attempts to come.
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
	Type     string     // the event's
	Feedback FeedbackID // the event's
	Created  time.Time
	State    State
	// Rung counts the failed attempts on the current ladder: 0 before the first attempt
	// and after Requeue.
	Rung int
	// Attempts counts all attempts, across all ladders.
	Attempts int
	// Due is when the next attempt may be made. Zero means at once or, if the delivery
	// has ended, never.
	Due time.Time
	// Ended is when it was delivered or failed. It is zero while the delivery waits,
	// and if it failed because its webhook was deleted.
	Ended time.Time
}

// Attempt is one signed POST and its result.
type Attempt struct {
	Number         int // from 1, across all ladders of the delivery; set by the engine
	At             time.Time
	Duration       time.Duration
	Status         int    // 0 if there was no response
	Error          string // empty on success; no URL query, no secret
	ErrorClass     string // "timeout", "dns", "refused", …; empty on success
	RequestHeaders []Header
	// RequestBody is what was sent, if that was not the event's document.
	RequestBody     []byte
	ResponseHeaders []Header
	ResponseBody    []byte // at most 16 KiB
	TraceID         [16]byte
	SpanID          [8]byte
	TraceFlags      byte      // of W3C Trace Context; bit 0: sampled
	Next            time.Time // when the next attempt is due; zero if there is none
}

// Header is one header field.
type Header struct{ Name, Value string }

// Webhook is a stored webhook. The queue knows its id, name and revision. Its
// configuration and state belong to the relay and are stored as bytes.
type Webhook struct {
	ID       WebhookID
	Name     string // unique among records
	Revision uint64 // increases with each PutWebhook
	// Expires reports that the webhook is parked: retention may remove its waiting
	// deliveries.
	Expires bool
	Data    []byte
}

// AtRevision returns an error unless the webhook, as it was looked up by its id, is stored
// and has this revision. A webhook that was not found is the zero value.
func (w Webhook) AtRevision(id WebhookID, revision uint64) error {
	switch {
	case w.ID == 0:
		return fmt.Errorf("webhook %d: %w", id, ErrNotFound)
	case w.Revision != revision:
		return fmt.Errorf("webhook %d is at revision %d, not %d: %w", id, w.Revision, revision, ErrConflict)
	}
	return nil
}

// Activity is one entry of the activity log.
type Activity struct {
	ID   string // set by the engine; sorts by time
	At   time.Time
	Data []byte // content, defined by the relay
}

// Bounds of the submissions kept from honeypots.
const (
	MaxCaught = 1000
	CaughtFor = 24 * time.Hour
)

// Caught is a submission that a honeypot caught. It is not an event: it has no
// deliveries and appears in no other list.
type Caught struct {
	At   time.Time // UTC, to the millisecond
	Body []byte    // the document, which did not become an event; read-only
}

// EventQuery selects events. The zero value selects all.
type EventQuery struct {
	Type         string
	FeedbackID   string    // in any project, unless ProjectID is set
	ProjectID    string    // empty means all
	Projects     []string  // only these as well; nil means all
	Since, Until time.Time // by time of acceptance: Since ≤ created < Until
	// Match reports whether to select an event with this body. Nil selects all. It is
	// called from one goroutine and must not keep the slice.
	Match  func(body []byte) bool
	Limit  int    // 1–1,000; default 50
	Cursor string // Next of the previous page
}

// Selects reports whether the query selects an event, as long as Match selects its body.
// No query selects an event of the relay itself.
func (q *EventQuery) Selects(e *Event) bool {
	return !strings.HasPrefix(e.Type, ".") &&
		(q.Type == "" || e.Type == q.Type) &&
		(q.FeedbackID == "" || e.Feedback.ID == q.FeedbackID) &&
		(q.ProjectID == "" || e.Feedback.Project == q.ProjectID) &&
		(q.Projects == nil || slices.Contains(q.Projects, e.Feedback.Project)) &&
		!e.Created.Before(q.Since) && (q.Until.IsZero() || e.Created.Before(q.Until))
}

// DeliveryQuery selects deliveries. The zero value selects all.
type DeliveryQuery struct {
	Webhook      WebhookID // 0 means all
	States       []State   // empty means all
	Projects     []string  // of the event; nil means all
	Since, Until time.Time // by time of the event's acceptance
	Limit        int       // 1–1,000; default 50
	Cursor       string
}

// Selects reports whether the query selects deliveries of an event.
func (q *DeliveryQuery) Selects(e *Event) bool {
	return (&EventQuery{Projects: q.Projects, Since: q.Since, Until: q.Until}).Selects(e)
}

// Page is one page of a list. Next is empty at the end. A page may have fewer rows than
// requested, or none, while Next is set, because engines bound the work of one call.
type Page[T any] struct {
	Items []T
	Next  string
}

// Counts holds the number of deliveries in each stored state.
type Counts struct {
	Pending, Retrying, Delivered, Failed int64
}

// Waiting returns how many deliveries still have attempts to come.
func (c Counts) Waiting() int64 { return c.Pending + c.Retrying }

// Add returns the sum.
func (c Counts) Add(d Counts) Counts {
	return Counts{c.Pending + d.Pending, c.Retrying + d.Retrying, c.Delivered + d.Delivered, c.Failed + d.Failed}
}

// Sub returns the difference.
func (c Counts) Sub(d Counts) Counts {
	return Counts{c.Pending - d.Pending, c.Retrying - d.Retrying, c.Delivered - d.Delivered, c.Failed - d.Failed}
}

// Count adds n deliveries with state s.
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

// Stats are the engine's counters.
type Stats struct {
	AsOf      time.Time // the counters are complete up to this time
	Events    int64     // stored now
	Webhooks  map[WebhookID]WebhookStats
	DiskBytes int64         // size of the store's files
	DiskFree  int64         // free space of their file system for this process; -1 if unknown
	MaxDisk   int64         // Limits.MaxDisk in force; 0 if there is none
	Commit    time.Duration // a moving average of one durable commit
	// Shared reports that other relays may work on the store. Then Unavailable is how many
	// of this relay's calls the servers did not answer in time.
	Shared      bool
	Unavailable int64
}

// LanesOwned returns how many open lanes this relay owns. It is 0 if the store is not
// shared.
func (s Stats) LanesOwned() (n int) {
	for _, w := range s.Webhooks {
		if w.Owned {
			n++
		}
	}
	return n
}

// WebhookStats are the counters of one webhook.
type WebhookStats struct {
	Counts
	// OldestDue is since when the oldest due delivery has waited for its attempt. It is
	// zero if nothing is due.
	OldestDue time.Time
	// Owned reports that this relay owns the webhook's open lane, in a store that other
	// relays share.
	Owned bool
}
