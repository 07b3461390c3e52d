package caddymodule

import (
	"fmt"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/userhero/relay/caddymodule/secret"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/relay"
)

// Webhook is a named receiver of events.
type Webhook struct {
	// The name, unique among all webhooks; it keeps the deliveries together
	// when the other settings change.
	Name string `json:"name"`

	// Where events are sent. Placeholders are replaced when the configuration
	// is loaded.
	URL string `json:"url"`

	// The secret that signs the body. A secret that begins with `whsec_` is
	// base64, as in Standard Webhooks. Write it as a placeholder, such as
	// `{env.CRM_SECRET}` or `{file./run/secrets/crm}`. Default: no signature.
	Secret string `json:"secret,omitempty"`

	// The secret before, which signs too while receivers change over.
	PreviousSecret string `json:"previous_secret,omitempty"`

	// The event types it gets. Default: all.
	Events []string `json:"events,omitempty"`

	// A CEL expression over the event document, such as `data.rating <= 2`;
	// events for which it is false are not sent. Default: all are sent.
	Filter string `json:"filter,omitempty"`

	// Header fields added to each request. Placeholders in values are replaced
	// when the configuration is loaded. The relay's own fields cannot be set.
	Headers http.Header `json:"headers,omitempty"`

	// For receivers that ask for a client certificate, or whose own certificate
	// is not of a public authority.
	TLS *TLS `json:"tls,omitempty"`

	// The delays before each retry; an empty list means no retries. Default:
	// the app's.
	Retry Ladder `json:"retry,omitzero"`

	// How long one attempt may take, from connecting to the end of the answer.
	// Default: the app's.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// How many requests may be under way at once. Default: 8.
	Concurrency int `json:"concurrency,omitempty"`

	// The most requests per time, such as `50/s` or `1000/m`. Default: no bound.
	Rate string `json:"rate,omitempty"`

	// How long every attempt may fail before a warning is sent, though retries
	// are left. Default: the app's.
	WarnAfter caddy.Duration `json:"warn_after,omitempty"`

	// Deliver the events of one feedback in order: an update never overtakes
	// its creation.
	Ordered bool `json:"ordered,omitempty"`

	// Take no new events and hold those that wait.
	Disabled bool `json:"disabled,omitempty"`
}

// Ladder is the delays before each retry. Nil means not set; empty means no
// retries.
type Ladder []caddy.Duration

// durations keeps nil and empty apart.
func (l Ladder) durations() []time.Duration {
	if l == nil {
		return nil
	}
	d := make([]time.Duration, len(l))
	for i, rung := range l {
		d[i] = time.Duration(rung)
	}
	return d
}

// resolve returns the webhook as the relay knows it, placeholders replaced.
func (w *Webhook) resolve(repl *caddy.Replacer) (relay.WebhookConfig, error) {
	c := relay.WebhookConfig{
		Name:        w.Name,
		Filter:      w.Filter,
		Retry:       w.Retry.durations(),
		Timeout:     time.Duration(w.Timeout),
		Concurrency: w.Concurrency,
		WarnAfter:   time.Duration(w.WarnAfter),
		Ordered:     w.Ordered,
		Disabled:    w.Disabled,
	}
	for _, field := range []struct {
		name, value string
		to          *string
	}{
		{"url", w.URL, &c.URL},
		{"secret", w.Secret, &c.Secret},
		{"previous_secret", w.PreviousSecret, &c.PreviousSecret},
	} {
		v, err := secret.Resolve(repl, field.value)
		if err != nil {
			return c, fmt.Errorf("%s: %w", field.name, err)
		}
		*field.to = v
	}
	for _, t := range w.Events {
		c.Events = append(c.Events, event.Type(t))
	}
	for name, values := range w.Headers {
		for _, value := range values {
			v, err := secret.Resolve(repl, value)
			if err != nil {
				return c, fmt.Errorf("header %s: %w", name, err)
			}
			if c.Header == nil {
				c.Header = make(http.Header, len(w.Headers))
			}
			c.Header[name] = append(c.Header[name], v) // goes out spelled as it is
		}
	}
	var err error
	if c.TLS, err = w.TLS.resolve(repl); err != nil {
		return c, err
	}
	if w.Rate != "" {
		rate, err := relay.ParseRate(w.Rate)
		if err != nil {
			return c, fmt.Errorf("rate: %w", err)
		}
		c.Rate = rate
	}
	return c, nil
}
