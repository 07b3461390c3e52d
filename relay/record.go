package relay

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/tally"
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

// record is what the store keeps for a webhook, as JSON: its state and, if it was added
// through the API, its configuration. The settings of other webhooks are read from the
// configuration file at every start.
type record struct {
	Source string `json:"source"`
	// Creator is the relay that has created the webhook. It is set only if several relays
	// may work on the store.
	Creator string         `json:"creator,omitempty"`
	Config  *WebhookConfig `json:"config,omitempty"`
	// Settings stands for the settings in the configuration file of the relay that
	// attached them last. It is set only if several relays may work on the store.
	Settings string `json:"settings,omitempty"`
	State    string `json:"state"`
	// Reason says why the webhook is failing or disabled.
	Reason       string    `json:"reason,omitempty"`
	FailingSince time.Time `json:"failing_since,omitzero"`
	// DisabledSince is when the webhook was disabled; zero if it is not.
	DisabledSince time.Time `json:"disabled_since,omitzero"`
	// Episode is when the present outage began, if a notice was posted about it. It is
	// zero after the outage.
	Episode time.Time `json:"episode,omitzero"`
	// LastNotice is the last notice. It is stored together with the state it reports
	// and posted afterwards. If the process crashes in between, the next start posts
	// it.
	LastNotice  lastNotice `json:"told,omitzero"`
	LastSuccess time.Time  `json:"last_success,omitzero"`
	LastAttempt time.Time  `json:"last_attempt,omitzero"`
	// HeldUntil is the end of the hold that the receiver's Retry-After asked for.
	HeldUntil time.Time `json:"held_until,omitzero"`
	// LastAnswer is the result of the attempt at LastAttempt.
	LastAnswer Answer `json:"last_answer,omitzero"`
	// The tally at the time the record was stored.
	tally.Stored
}

// lastNotice is the stored form of a notice.
type lastNotice struct {
	Kind    string    `json:"kind"`
	Reason  string    `json:"reason,omitempty"`
	Episode time.Time `json:"episode"`
	Since   time.Time `json:"since"`
	At      time.Time `json:"at"`
	// URL, without its secret parts, Owners and Projects are the webhook's at that time.
	URL      string   `json:"url,omitempty"`
	Owners   []string `json:"owners,omitempty"`
	Projects []string `json:"projects,omitempty"`
	// StateChanged is false for a warning, and for the recovery of a webhook that had
	// only a warning.
	StateChanged bool `json:"state_changed,omitempty"`
}

// Answer is the short result of an attempt.
type Answer struct {
	Status   int           `json:"status,omitempty"` // 0 if there was no response
	Error    string        `json:"error,omitempty"`  // empty on success
	Class    string        `json:"class,omitempty"`  // class of the error
	Duration time.Duration `json:"duration,omitempty"`
}

func decodeRecord(w queue.Webhook) (record, error) {
	var rec record
	if err := json.Unmarshal(w.Data, &rec); err != nil {
		return rec, fmt.Errorf("reading the record of webhook %q: %w", w.Name, err)
	}
	if rec.Config != nil {
		rec.Config.Name = w.Name
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
