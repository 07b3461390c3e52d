package relay

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/deliver"
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

// record is what the store keeps of a webhook, as JSON: its state and, if it was added
// through the API, its configuration. What the configuration file says is read from
// there at every start.
type record struct {
	Source string        `json:"source"`
	Config *storedConfig `json:"config,omitempty"`
	State  string        `json:"state"`
	// Reason says in words why it is failing or disabled.
	Reason       string    `json:"reason,omitempty"`
	FailingSince time.Time `json:"failing_since,omitzero"`
	// Episode is when the present outage began, if a notice was posted about it; zero once
	// it is over.
	Episode time.Time `json:"episode,omitzero"`
	// LastNotice is the last notice. It is stored with the state that it reports and posted
	// after that, so if a crash came in between, the next start posts it.
	LastNotice  lastNotice `json:"told,omitzero"`
	LastSuccess time.Time  `json:"last_success,omitzero"`
	LastAttempt time.Time  `json:"last_attempt,omitzero"`
	// HeldUntil is when the receiver may be asked again, by its Retry-After.
	HeldUntil time.Time `json:"held_until,omitzero"`
	// LastAnswer is what came of the attempt at LastAttempt.
	LastAnswer Answer `json:"last_answer,omitzero"`
	// Hours is the tally of the last day as it was when the record was stored.
	Hours []hourTally `json:"hours,omitempty"`
}

// lastNotice is a notice as the record keeps it.
type lastNotice struct {
	Kind    string    `json:"kind"`
	Reason  string    `json:"reason,omitempty"`
	Episode time.Time `json:"episode"`
	Since   time.Time `json:"since"`
	At      time.Time `json:"at"`
}

// Answer is what came of an attempt, in short.
type Answer struct {
	Status   int           `json:"status,omitempty"` // 0 if no answer came
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

// storedConfig is how a webhook that was added through the API is kept.
type storedConfig struct {
	URL            string          `json:"url"`
	Secret         string          `json:"secret,omitempty"`
	PreviousSecret string          `json:"previous_secret,omitempty"`
	PreviousUntil  time.Time       `json:"previous_until,omitzero"`
	Events         []event.Type    `json:"events,omitempty"`
	Filter         string          `json:"filter,omitempty"`
	Header         http.Header     `json:"header,omitempty"`
	TLS            deliver.TLS     `json:"tls,omitzero"`
	Retry          []time.Duration `json:"retry,omitzero"`
	Timeout        time.Duration   `json:"timeout,omitempty"`
	Concurrency    int             `json:"concurrency,omitempty"`
	Rate           Rate            `json:"rate,omitzero"`
	Ordered        bool            `json:"ordered,omitempty"`
}

func newStoredConfig(w WebhookConfig) *storedConfig {
	return &storedConfig{
		URL: w.URL, Secret: w.Secret, PreviousSecret: w.PreviousSecret, PreviousUntil: w.PreviousUntil,
		Events: w.Events, Filter: w.Filter, Header: w.Header, TLS: w.TLS, Retry: w.Retry, Timeout: w.Timeout,
		Concurrency: w.Concurrency, Rate: w.Rate, Ordered: w.Ordered,
	}
}

func (c *storedConfig) config(name string) WebhookConfig {
	return WebhookConfig{
		Name: name, URL: c.URL, Secret: c.Secret, PreviousSecret: c.PreviousSecret, PreviousUntil: c.PreviousUntil,
		Events: c.Events, Filter: c.Filter, Header: c.Header, TLS: c.TLS, Retry: c.Retry, Timeout: c.Timeout,
		Concurrency: c.Concurrency, Rate: c.Rate, Ordered: c.Ordered,
	}
}
