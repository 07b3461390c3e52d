package api

import (
	"encoding/json"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/signature"
)

// The types of requests and answers, as JSON. Times are in UTC with milliseconds;
// a member that does not apply is absent.

// Page is one page of a list.
type Page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"` // cursor of the next page; absent at the end
}

// Status is the state of the relay, from counters only.
type Status struct {
	Version       string         `json:"version"`
	StartedAt     time.Time      `json:"started_at"`
	UptimeSeconds float64        `json:"uptime_seconds"`
	Healthy       bool           `json:"healthy"`
	Reason        string         `json:"reason,omitempty"` // why it is not healthy
	Deliveries    Counts         `json:"deliveries"`
	Webhooks      map[string]int `json:"webhooks"` // by state
	OldestDueAge  float64        `json:"oldest_due_age_seconds"`
	*StoreStatus                 // nil in a console of some projects, which share the store with others
}

// StoreStatus is the state of the store.
type StoreStatus struct {
	Events          int64     `json:"events"`
	CommitLatencyMS float64   `json:"commit_latency_ms"`
	DiskBytes       int64     `json:"disk_bytes"`
	DiskFreeBytes   *int64    `json:"disk_free_bytes,omitempty"` // absent if unknown
	CountsAsOf      time.Time `json:"counts_as_of"`              // the counts are complete up to this time
	LanesOwned      *int      `json:"lanes_owned,omitempty"`     // absent if no other relay can work on the store
	LastBackup      time.Time `json:"last_backup,omitzero"`      // when the newest backup was made that was verified
}

// Counts are deliveries by state.
type Counts = relay.Counts

// Webhook is a webhook without its secrets.
type Webhook struct {
	Name        string       `json:"name"`
	URL         string       `json:"url"`                // secret parts are hidden
	Projects    []string     `json:"projects,omitempty"` // absent: all
	Events      []event.Type `json:"events"`
	Filter      string       `json:"filter,omitempty"`
	Body        string       `json:"body,omitempty"`   // absent: the document
	Notify      []string     `json:"notify,omitempty"` // addresses of its owners
	Retry       []string     `json:"retry"`
	Timeout     string       `json:"timeout"`
	Concurrency int          `json:"concurrency"`
	Rate        string       `json:"rate,omitempty"`
	Ordered     bool         `json:"ordered"`
	// HeaderNames are the names of the configured headers; their values may be
	// secrets.
	HeaderNames []string `json:"header_names,omitempty"`
	HasSecret   bool     `json:"has_secret"`
	// PublicKeys are those of asymmetric signatures, the present one first.
	PublicKeys   []signature.JWK `json:"public_keys,omitempty"`
	TLS          *WebhookTLS     `json:"tls,omitempty"`
	Source       string          `json:"source"`
	State        string          `json:"state"`
	Parked       bool            `json:"parked,omitempty"`
	FailingSince time.Time       `json:"failing_since,omitzero"`
	Reason       string          `json:"reason,omitempty"`
	Difference   string          `json:"difference,omitempty"` // of another relay's configuration file
	LastSuccess  time.Time       `json:"last_success,omitzero"`
	LastAttempt  time.Time       `json:"last_attempt,omitzero"`
	HeldUntil    time.Time       `json:"held_until,omitzero"`
	Counts       Counts          `json:"counts"`
	// FilterErrors is absent if the filter could judge every event.
	FilterErrors *FilterErrors `json:"filter_errors,omitempty"`
}

// FilterErrors are the events that a filter could not judge.
type FilterErrors struct {
	Count int64     `json:"count"`
	Last  string    `json:"last"` // the last error
	At    time.Time `json:"at"`   // when that was
}

// WebhookTLS names the certificates of a webhook with TLS settings of its own.
type WebhookTLS struct {
	ClientCertificate *Certificate  `json:"client_certificate,omitempty"`
	RootCA            []Certificate `json:"root_ca,omitempty"`
}

// Certificate is a certificate by its subject.
type Certificate struct {
	Subject  string    `json:"subject"`
	NotAfter time.Time `json:"not_after"`
}

// WebhookWithSecret is a webhook and the secret that the relay made for it. No other
// answer shows that secret.
type WebhookWithSecret struct {
	Webhook
	Secret string `json:"secret,omitempty"`
}

// WebhookSettings are the settings of a new or changed webhook. An absent one keeps
// its value, or is the default of a new webhook.
type WebhookSettings struct {
	Name               *string            `json:"name"`
	URL                *string            `json:"url"`
	Secret             *string            `json:"secret"`
	GenerateSecret     bool               `json:"generate_secret"`
	SigningKey         *string            `json:"signing_key"`
	PreviousSigningKey *string            `json:"previous_signing_key"`
	Projects           *[]string          `json:"projects"`
	Events             *[]event.Type      `json:"events"`
	Filter             *string            `json:"filter"`
	Body               *string            `json:"body"`
	Headers            *map[string]string `json:"headers"`
	TLS                *TLSSettings       `json:"tls"`
	Notify             *[]string          `json:"notify"`
	Retry              *[]string          `json:"retry"`
	Timeout            *string            `json:"timeout"`
	Concurrency        *int               `json:"concurrency"`
	Rate               *string            `json:"rate"`
	Ordered            *bool              `json:"ordered"`
}

// TLSSettings are a webhook's TLS settings in PEM. They replace all earlier ones.
type TLSSettings struct {
	ClientCertificate    string `json:"client_certificate"`
	ClientCertificateKey string `json:"client_certificate_key"`
	RootCA               string `json:"root_ca"`
}

// Deleted is a webhook that was deleted.
type Deleted struct {
	Name  string `json:"deleted"`
	Ended int64  `json:"deliveries_ended"` // waiting deliveries that were cancelled
}

// TestResult is the result of a test send.
type TestResult struct {
	OK              bool              `json:"ok"`
	Status          int               `json:"status"` // 0 if there was no answer
	DurationMS      float64           `json:"duration_ms"`
	Error           string            `json:"error,omitempty"`
	ErrorClass      string            `json:"error_class,omitempty"`
	ResponseBody    string            `json:"response_body"`
	ResponseHeaders map[string]string `json:"response_headers"`
	RequestHeaders  map[string]string `json:"request_headers"`
	RequestBody     string            `json:"request_body,omitempty"` // absent: the sample
}

// PreviewRequest is a body to preview; absent: the webhook's own.
type PreviewRequest struct {
	Body *string `json:"body"`
}

// Previews are what a body makes of some events.
type Previews struct {
	Items []Preview `json:"items"`
}

// Preview is what a body makes of one event.
type Preview struct {
	EventID     string `json:"event_id,omitempty"` // absent: the documented sample
	ContentType string `json:"content_type,omitempty"`
	Body        string `json:"body,omitempty"`
	Error       string `json:"error,omitempty"` // why it cannot be made
}

// Rotation is a change of a webhook's secret.
type Rotation struct {
	Secret  string `json:"secret"`  // empty: the relay makes one
	Overlap string `json:"overlap"` // how long the old secret also works
}

// KeyRotation is a change of a webhook's signing key.
type KeyRotation struct {
	SigningKey string `json:"signing_key"` // empty: the relay makes one
	Overlap    string `json:"overlap"`     // how long the old key also signs
}

// Recovery selects deliveries to send again, by state: StateFailed, StateMissed or
// StateWaiting. Without a state it selects those that failed and, with Since, also
// those that were missed since then.
type Recovery struct {
	State  string    `json:"state,omitempty"`
	Since  time.Time `json:"since,omitzero"`
	Until  time.Time `json:"until,omitzero"`
	DryRun bool      `json:"dry_run,omitempty"` // count only
}

// What a recovery can select besides StateFailed.
const (
	StateMissed  = "missed"
	StateWaiting = "waiting"
)

// Recovered is how many deliveries were queued again, or would be.
type Recovered struct {
	Count int64 `json:"count"`
}

// Erasure selects feedback to erase: each of which an event matches the filter.
type Erasure struct {
	Filter  string `json:"filter"` // CEL over event and data
	DryRun  bool   `json:"dry_run,omitempty"`
	Compact bool   `json:"compact,omitempty"` // give the disk space back at once
}

// Erased is what was erased, or would be.
type Erased struct {
	Feedback   int64  `json:"feedback"`
	Events     int64  `json:"events"`
	Deliveries int64  `json:"deliveries"`
	Cancelled  int64  `json:"cancelled"` // deliveries that waited
	Attempts   int64  `json:"attempts"`
	NotJudged  int64  `json:"not_judged,omitempty"` // events that the filter could not judge
	LastError  string `json:"last_error,omitempty"` // why
}

// Event is an event; lists leave out its body and its deliveries.
type Event struct {
	ID         string          `json:"id"`
	Type       string          `json:"type"`
	FeedbackID string          `json:"feedback_id"`
	ProjectID  string          `json:"project_id,omitempty"`
	CreatedAt  time.Time       `json:"created_at"`
	Message    string          `json:"message,omitempty"`  // its beginning, on one line
	Rating     int             `json:"rating,omitempty"`   // 1 to 5
	Size       int             `json:"size"`               // of the body, in bytes
	Redacted   bool            `json:"redacted,omitempty"` // the message, context and metadata were removed
	TraceID    string          `json:"trace_id,omitempty"`
	Body       json.RawMessage `json:"body,omitempty"`
	Deliveries []Delivery      `json:"deliveries,omitzero"`
}

// Feedback is a feedback as it is now, with the events that made it so.
type Feedback struct {
	ID        string          `json:"id"`
	ProjectID string          `json:"project_id,omitempty"`
	Data      json.RawMessage `json:"data"`   // of the newest event's document
	Events    []Event         `json:"events"` // oldest first, as in a list
}

// Delivery is one event on its way to one webhook.
type Delivery struct {
	ID            string    `json:"id"`
	EventID       string    `json:"event_id"`
	FeedbackID    string    `json:"feedback_id"`
	ProjectID     string    `json:"project_id,omitempty"`
	Type          string    `json:"type"`
	Webhook       string    `json:"webhook"`
	State         string    `json:"state"`
	AttemptsMade  int       `json:"attempts_made"`
	CreatedAt     time.Time `json:"created_at"` // when the event was accepted
	NextAttemptAt time.Time `json:"next_attempt_at,omitzero"`
	EndedAt       time.Time `json:"ended_at,omitzero"`
	Attempts      []Attempt `json:"attempts"`
}

// The states of a delivery. "held" is pending or retrying for a webhook that gets
// nothing at present.
const (
	StatePending   = "pending"
	StateRetrying  = "retrying"
	StateHeld      = "held"
	StateDelivered = "delivered"
	StateFailed    = "failed"
)

// Attempt is one request and its answer.
type Attempt struct {
	Number          int               `json:"number"`
	At              time.Time         `json:"at"`
	DurationMS      float64           `json:"duration_ms"`
	Status          int               `json:"status,omitempty"`
	Error           string            `json:"error,omitempty"`
	ErrorClass      string            `json:"error_class,omitempty"`
	RequestHeaders  map[string]string `json:"request_headers"`
	RequestBody     string            `json:"request_body,omitempty"` // absent: the event's document
	ResponseHeaders map[string]string `json:"response_headers"`
	ResponseBody    string            `json:"response_body"`
	TraceID         string            `json:"trace_id"`
	NextAttemptAt   time.Time         `json:"next_attempt_at,omitzero"`
}

// Activity is one line of the activity log.
type Activity struct {
	ID string `json:"id"`
	StreamedActivity
}

// StreamedActivity is what the stream sends for a new line of the activity log.
type StreamedActivity struct {
	At      time.Time `json:"at"`
	What    string    `json:"what"`
	Who     string    `json:"who"`
	Webhook string    `json:"webhook,omitempty"`
	Detail  string    `json:"detail,omitempty"`
}

// StreamedAccepted is what the stream sends for an accepted event.
type StreamedAccepted struct {
	At         time.Time `json:"at"`
	EventID    string    `json:"event_id"`
	Type       string    `json:"type"`
	FeedbackID string    `json:"feedback_id"`
	ProjectID  string    `json:"project_id,omitempty"`
	Deliveries int       `json:"deliveries"`
}

// StreamedAttempt is what the stream sends for an attempt that ended.
type StreamedAttempt struct {
	At            time.Time `json:"at"` // when it ended
	DeliveryID    string    `json:"delivery_id"`
	EventID       string    `json:"event_id"`
	Type          string    `json:"type"`
	FeedbackID    string    `json:"feedback_id"`
	ProjectID     string    `json:"project_id,omitempty"`
	Webhook       string    `json:"webhook"`
	State         string    `json:"state"` // of the delivery, now
	Number        int       `json:"number"`
	DurationMS    float64   `json:"duration_ms"`
	Status        int       `json:"status,omitempty"`
	Error         string    `json:"error,omitempty"`
	ErrorClass    string    `json:"error_class,omitempty"`
	NextAttemptAt time.Time `json:"next_attempt_at,omitzero"`
}

// StreamedState is what the stream sends when the state of a webhook changes.
type StreamedState struct {
	At      time.Time `json:"at"`
	Webhook string    `json:"webhook"`
	From    string    `json:"from"`
	To      string    `json:"to"`
	Reason  string    `json:"reason,omitempty"`
}

// StreamedLost is what the stream sends if it has a gap. A client that shows lists
// reads them again.
type StreamedLost struct {
	Count int    `json:"count,omitempty"` // how many events were lost; absent if unknown
	Since string `json:"since,omitempty"` // the id after which the gap begins, if the client sent it
}
