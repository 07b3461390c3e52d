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
	// The name, unique among all webhooks: 1 to 63 letters, digits, `-` and `_`,
	// beginning with a letter or digit. Deliveries belong to the name; all other
	// settings may change. Required.
	Name string `json:"name"`

	// The http or https URL to which events are sent. Placeholders are replaced when
	// the configuration is loaded. Required.
	URL string `json:"url"`

	// The secret that signs the body. A secret that begins with `whsec_` is
	// base64, as in Standard Webhooks. Write it as a placeholder, such as
	// `{env.CRM_SECRET}` or `{file./run/secrets/crm}`. Default: no signature.
	Secret string `json:"secret,omitempty"`

	// The old secret. While it is set, both secrets sign, so that receivers can change
	// to the new one at any time. Default: none.
	PreviousSecret string `json:"previous_secret,omitempty"`

	// An ed25519 private key that makes asymmetric signatures besides: PKCS #8 in PEM, or
	// `whsk_` as in Standard Webhooks. Write it as a placeholder, such as
	// `{file./run/secrets/ed25519.pem}`. The public key is in the console at
	// `.well-known/webhook-keys.json`. Default: no asymmetric signature.
	SigningKey string `json:"signing_key,omitempty"`

	// The old key. While it is set, both keys sign. Default: none.
	PreviousSigningKey string `json:"previous_signing_key,omitempty"`

	// The projects whose feedback is sent. Feedback without a project is sent only to
	// webhooks that name none. Placeholders are replaced when the configuration is
	// loaded. Default: feedback of all projects, and without one.
	Projects []string `json:"projects,omitempty"`

	// The event types that are sent. `feedback.created` and `feedback.updated` are about
	// feedback. `webhook.failing`, `webhook.recovered` and `webhook.disabled` report the
	// state of other webhooks whose projects this webhook gets; they must be named.
	// Default: both of feedback.
	Events []string `json:"events,omitempty"`

	// A CEL expression over the event document, such as `data.rating <= 2`. Events for
	// which it is false are not sent. Default: all events are sent.
	Filter string `json:"filter,omitempty"`

	// What is sent instead of the event document: `slack`, `discord` or `teams` for a
	// message of that chat tool, or a CEL expression over `event`, `data`, `timestamp`
	// and `webhook`, such as `{"text": data.message}`. A map or a list is sent as JSON,
	// a string as text. Default: the event document.
	Body string `json:"body,omitempty"`

	// Header fields that are added to each request, spelled as written. Placeholders in
	// values are replaced when the configuration is loaded. The fields that the relay
	// itself sets cannot be set here. Default: none.
	Headers http.Header `json:"headers,omitempty"`

	// TLS settings for receivers that ask for a client certificate, or whose own
	// certificate is not from a public authority. Default: none.
	TLS *TLS `json:"tls,omitempty"`

	// E-mail addresses of the webhook's owners. They are mailed about this webhook,
	// besides those whom `notify smtp` names. Placeholders are replaced when the
	// configuration is loaded. Default: none.
	Notify []string `json:"notify,omitempty"`

	// The delays before each retry. At most 100, each above 0 and at most 30 days. An
	// empty list means no retries. Default: the app's `retry`.
	Retry Ladder `json:"retry,omitzero"`

	// The longest duration of one attempt, from connecting to the end of the answer; at
	// most 10 minutes. Default: the app's `timeout`.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// The most attempts at the same time, from 1 to 1024. Default: 8.
	Concurrency int `json:"concurrency,omitempty"`

	// The most attempts per time, such as `50/s`, `1000/m` or `5/10s`. Default: no
	// limit.
	Rate string `json:"rate,omitempty"`

	// Sends a warning when every attempt has failed for this long, even if retries are
	// left. Default: the app's `warn_after`.
	WarnAfter caddy.Duration `json:"warn_after,omitempty"`

	// Delivers the events of one feedback in order, so that an update never arrives
	// before its creation. Default: false.
	Ordered bool `json:"ordered,omitempty"`

	// If true, the webhook gets no new events, and its waiting deliveries are held.
	// Default: false.
	Disabled bool `json:"disabled,omitempty"`
}

// Ladder holds the delays before each retry. Nil means not set; empty means no
// retries.
type Ladder []caddy.Duration

// durations returns nil for a nil ladder, and an empty slice for an empty one.
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

// resolve returns the webhook's settings for the relay, with every placeholder replaced.
func (w *Webhook) resolve(repl *caddy.Replacer) (relay.WebhookConfig, error) {
	c := relay.WebhookConfig{
		Name:        w.Name,
		Filter:      w.Filter,
		Body:        w.Body,
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
		{"signing_key", w.SigningKey, &c.SigningKey},
		{"previous_signing_key", w.PreviousSigningKey, &c.PreviousSigningKey},
	} {
		v, err := secret.Resolve(repl, field.value)
		if err != nil {
			return c, fmt.Errorf("%s: %w", field.name, err)
		}
		*field.to = v
	}
	for _, list := range []struct {
		name   string
		values []string
		to     *[]string
	}{
		{"projects", w.Projects, &c.Projects},
		{"notify", w.Notify, &c.Notify},
	} {
		for _, value := range list.values {
			v, err := secret.Resolve(repl, value)
			if err != nil {
				return c, fmt.Errorf("%s: %w", list.name, err)
			}
			*list.to = append(*list.to, v)
		}
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
			c.Header[name] = append(c.Header[name], v) // not Add, which would change the spelling of the name
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
