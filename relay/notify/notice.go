// Package notify sends notices to people when a webhook fails, recovers, is disabled or
// has problems.
//
// It promises that a notice survives a crash, because it is an event in the queue. Each
// notifier gets each notice once, retries on its own ladder, and is independent of the
// other notifiers. Notices that come close together go out as one message. A webhook
// that fails and recovers over and over is reported once an hour.
//
// The package does not know when a webhook changes its state or what a message looks
// like: package relay posts notices, and a Notifier sends them. Most of its tests are
// in package relay, on fake time, with webhooks that really fail.
package notify

import (
	"context"
	"errors"
	"net/url"
	"time"

	"github.com/userhero/relay/queue"
)

// Notifier sends messages to people. If an error has a method Temporary that returns
// true, the notice is retried on the ladder. Other errors are final.
type Notifier interface {
	// Notify sends one message about all notices. Each is about a different webhook, and
	// all have the same To.
	Notify(ctx context.Context, notices []Notice) error
}

// Mailer is a Notifier that can send to any address. Notices to the owners of a webhook
// go through the first one.
type Mailer interface {
	Notifier
	// Reaches reports whether every message goes to this address anyway.
	Reaches(address string) bool
}

// Holder is a Notifier that may have nobody to send to at the moment.
type Holder interface {
	Notifier
	// Holds reports whether a notice has to wait until somebody can take it.
	Holds(n Notice) bool
}

// The kinds of notices.
const (
	Failing   = "failing"   // a delivery ran out of retries
	Recovered = "recovered" // the first success after that
	Disabled  = "disabled"  // the receiver answered 410 Gone
	Warning   = "warning"   // attempts fail, retries are left
)

// Notice is one change of a webhook's state that its owner should know of. It contains
// no payload and no secret.
type Notice struct {
	Kind string `json:"kind"`
	// ID is the webhook. Its name may belong to another webhook by the time the notice is
	// sent. It is zero in notices of versions that did not store it.
	ID      queue.WebhookID `json:"id,omitempty"`
	Webhook string          `json:"webhook"` // its name
	URL     string          `json:"url"`     // without secrets, see package redact
	// Projects are those that the webhook named when its state changed.
	Projects []string  `json:"projects,omitempty"`
	At       time.Time `json:"at"` // when the state changed
	// Since is when it began to fail; zero if unknown.
	Since  time.Time `json:"since,omitzero"`
	Reason string    `json:"reason,omitempty"`
	// To is the address of the owner who gets the notice. If it is empty, those get it
	// whom the notifier's own settings name.
	To string `json:"to,omitempty"`
	// Thread is the same for all notices of one episode: warning, failure and recovery.
	Thread string `json:"thread"`
	// Changes counts the earlier changes of state that no message reported, because
	// another change followed soon. It is not stored.
	Changes int `json:"-"`
	// Console is the address of the console. It is empty if none is configured, or if the
	// webhook was deleted or may belong to somebody else. It is not stored.
	Console string `json:"-"`
	// Owners are the addresses to which a notice is posted besides. They are not stored.
	Owners []string `json:"-"`
	// Operational reports whether the state of the webhook changed, so that an
	// operational event reports it too. It is not stored.
	Operational bool `json:"-"`
}

// subject is what a notice is about: a webhook by its ID or, in notices that have none, by
// its name.
type subject struct {
	id   queue.WebhookID
	name string
}

func (n Notice) subject() subject {
	if n.ID != 0 {
		return subject{id: n.ID}
	}
	return subject{name: n.Webhook}
}

// Config holds a generation's settings for notices.
type Config struct {
	// Notifiers send every notice. They work independently: if one refuses a notice, it
	// is still sent through the rest.
	Notifiers []Notifier
	// Operational, if not nil, makes operational events of notices. OpenOperational must
	// have been called before it gets any.
	Operational Notifier
	// ConsoleURL is the console's address. Empty means none.
	ConsoleURL string
	// GroupWithin is how long notices are collected before they go out together. 0
	// means one minute.
	GroupWithin time.Duration
}

// Validate checks the address that messages link to.
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
