package relay

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/userhero/relay/queue"
)

// The states of a webhook.
const (
	Active   = "active"
	Failing  = "failing"
	Disabled = "disabled"
)

// The sources of a webhook's settings.
const (
	FromCaddyfile = "caddyfile"
	FromAPI       = "api"
)

// record is what the store keeps of a webhook, as JSON: how it fares and, where
// it was added through the API, how it is configured. What the configuration
// file says is read from there at every start.
type record struct {
	Source string        `json:"source"`
	Config *storedConfig `json:"config,omitempty"`
	State  string        `json:"state"`
	// Reason says in words why it is failing or disabled.
	Reason       string    `json:"reason,omitempty"`
	FailingSince time.Time `json:"failing_since,omitzero"`
	// Episode is when what the owner was told of last began, with a warning or
	// with failing; zero once it is over.
	Episode time.Time `json:"episode,omitzero"`
	// Told is the last notice. It is stored with what it tells of and posted
	// after that, so one that a crash kept from the mailbox is posted at the next
	// start.
	Told        told      `json:"told,omitzero"`
	LastSuccess time.Time `json:"last_success,omitzero"`
	LastAttempt time.Time `json:"last_attempt,omitzero"`
	// HeldUntil is when the receiver may be asked again, by its Retry-After.
	HeldUntil time.Time `json:"held_until,omitzero"`
	// LastAnswer is what came of the attempt at LastAttempt.
	LastAnswer Answer `json:"last_answer,omitzero"`
	// Hours is the tally of the last day as it was when the record was stored.
	Hours []hourTally `json:"hours,omitempty"`
}

// told is a notice as the record keeps it.
type told struct {
	Kind    string    `json:"kind"`
	Reason  string    `json:"reason,omitempty"`
	Episode time.Time `json:"episode"`
	Since   time.Time `json:"since"`
	At      time.Time `json:"at"`
}

// Answer is what came of an attempt, in short.
type Answer struct {
	Status   int           `json:"status,omitempty"` // 0 where no answer came
	Error    string        `json:"error,omitempty"`  // empty on success
	Class    string        `json:"class,omitempty"`  // of the error
	Duration time.Duration `json:"duration,omitempty"`
}

func decodeRecord(w queue.Webhook) (record, error) {
	var rec record
	if err := json.Unmarshal(w.Data, &rec); err != nil {
		return rec, fmt.Errorf("reading the record of webhook %q: %w", w.Name, err)
	}
	return rec, nil
}

func (rec record) encode() []byte {
	b, err := json.Marshal(rec)
	if err != nil {
		panic(err) // strings and times of this century always marshal
	}
	return b
}

// activity is one line of the activity log, as JSON.
type activity struct {
	What    string `json:"what"` // "webhook failing", "webhook recovered", …
	Who     string `json:"who"`  // a user's id, "admin", "caddyfile" or "relay"
	Webhook string `json:"webhook,omitempty"`
	Detail  string `json:"detail,omitempty"`
}

// Activity is one line of the activity log: who did what, or what happened.
type Activity struct {
	ID                         string
	At                         time.Time
	What, Who, Webhook, Detail string
}

// Activities lists the activity log, newest first.
func (r *Relay) Activities(ctx context.Context, limit int, cursor string) (queue.Page[Activity], error) {
	stored, err := r.queue.Activities(ctx, limit, cursor)
	page := queue.Page[Activity]{Next: stored.Next}
	for _, s := range stored.Items {
		var a activity
		if err := json.Unmarshal(s.Data, &a); err != nil {
			return page, fmt.Errorf("reading activity %s: %w", s.ID, err)
		}
		page.Items = append(page.Items, Activity{ID: s.ID, At: s.At, What: a.What, Who: a.Who, Webhook: a.Webhook, Detail: a.Detail})
	}
	return page, err
}
