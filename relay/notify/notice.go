// Package notify tells people that a webhook fails, works again, was disabled, or
// is in trouble.
//
// It promises that a notice survives a crash, because it is an event in the queue
// like any other; that each notifier gets a notice once, tried again on a ladder of
// its own if it cannot be sent, whatever other notifiers answer; that notices
// which come close together go out as one message; and that a webhook which fails
// and recovers over and over is reported once an hour.
//
// It does not know when a webhook changes its state, nor what a message looks like:
// package relay posts notices, and a Notifier sends them. Most of its tests are
// package relay's, on fake time, with webhooks that really fail.
package notify

import (
	"context"
	"errors"
	"net/url"
	"time"
)

// Notifier sends messages to people. An error that has Temporary() true is tried
// again on the notices' own ladder; others are final.
type Notifier interface {
	// Notify sends one message about all notices, of one webhook each.
	Notify(ctx context.Context, notices []Notice) error
}

// The kinds of notices.
const (
	Failing   = "failing"   // a delivery ran out of retries
	Recovered = "recovered" // the first success after that
	Disabled  = "disabled"  // the receiver answered 410 Gone
	Warning   = "warning"   // attempts fail, retries are left
)

// Notice is one change of a webhook's state that its owner should know of. It
// has no payload and no secret.
type Notice struct {
	Kind    string    `json:"kind"`
	Webhook string    `json:"webhook"` // its name
	URL     string    `json:"url"`     // without its secrets, see package redact
	At      time.Time `json:"at"`      // when the state changed
	// Since is when it began to fail; zero: unknown.
	Since  time.Time `json:"since,omitzero"`
	Reason string    `json:"reason,omitempty"`
	// Thread is the same for the warning, the failure and the recovery of one
	// episode.
	Thread string `json:"thread"`
	// Changes counts the changes of state that nobody was told of, because others
	// followed soon. It is not stored.
	Changes int `json:"-"`
	// Console is the address of the console; empty if it is not configured. It is
	// not stored.
	Console string `json:"-"`
}

// Config is what a generation of settings says about notices.
type Config struct {
	// Notifiers are told of every notice. Each is told by itself: what one of them
	// refuses is still tried with the others.
	Notifiers []Notifier
	// ConsoleURL is the address of the console; empty is none.
	ConsoleURL string
	// GroupWithin is how long a notice waits for others that go out with it; 0 is one
	// minute.
	GroupWithin time.Duration
}

// Validate reports what is wrong with the address that messages link to.
func (c Config) Validate() error {
	if c.ConsoleURL == "" {
		return nil
	}
	u, err := url.Parse(c.ConsoleURL)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return errors.New("console_url: write its whole address, such as https://feedback.example.com/relay")
	case u.User != nil:
		return errors.New("console_url: leave user and password out of it; it is sent in mails")
	case u.RawQuery != "" || u.Fragment != "":
		return errors.New("console_url: leave out what follows ? or #; the addresses of pages are made from it")
	}
	return nil
}
