package relay

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/deliver"
	"github.com/userhero/relay/relay/signature"
)

// Errors of managing webhooks, for errors.Is.
var (
	// ErrReadOnly: the webhook's settings are in the configuration file.
	ErrReadOnly = errors.New("the webhook's settings are in the configuration file; change them there")
	// ErrExists: the name is taken.
	ErrExists = errors.New("there is a webhook of this name")
	// ErrInvalid: the settings are wrong; the error says which.
	ErrInvalid = errors.New("the settings are not valid")

	errParked = fmt.Errorf("the webhook has left the configuration: %w", queue.ErrConflict)
)

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

func store(w WebhookConfig) *storedConfig {
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

// find returns a webhook by name.
func (r *Relay) find(name string) (*webhook, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if w := r.webhooks[name]; w != nil {
		return w, nil
	}
	return nil, fmt.Errorf("webhook %q: %w", name, queue.ErrNotFound)
}

// Add makes a webhook, which gets every event accepted from now on that it
// wants. Who is noted in the activity log.
func (r *Relay) Add(ctx context.Context, c WebhookConfig, who string) error {
	if err := c.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	r.attachMu.Lock()
	defer r.attachMu.Unlock()
	if _, err := r.find(c.Name); err == nil {
		return fmt.Errorf("webhook %q: %w", c.Name, ErrExists)
	}
	t, err := r.targetOf(c)
	if err != nil {
		return err
	}
	w, err := r.create(ctx, c.Name, record{Source: FromAPI, State: Active, Config: store(c)})
	if err != nil {
		return err
	}
	if err := w.configure(ctx, t); err != nil {
		return err
	}
	r.note(activity{What: "webhook added", Who: who, Webhook: c.Name, Detail: t.Host()})
	return nil
}

// targetOf compiles settings as the current generation would; r.attachMu is
// held where they are to be put in force.
func (r *Relay) targetOf(c WebhookConfig) (*target, error) {
	r.mu.RLock()
	g := r.current
	r.mu.RUnlock()
	if g == nil {
		return nil, errors.New("no configuration is in force yet; try again in a moment")
	}
	t, err := newTarget(c.complete(g.config), g.client, r.agent)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return t, nil
}

// Change changes the settings of a webhook that was added through the API.
// The name stays.
func (r *Relay) Change(ctx context.Context, name string, change func(*WebhookConfig) error, who string) error {
	return r.change(ctx, name, change, activity{What: "webhook changed", Who: who, Webhook: name})
}

func (r *Relay) change(ctx context.Context, name string, change func(*WebhookConfig) error, a activity) error {
	r.attachMu.Lock()
	defer r.attachMu.Unlock()
	w, err := r.find(name)
	if err != nil {
		return err
	}
	w.mu.Lock()
	stored := w.record.Config
	w.mu.Unlock()
	if stored == nil {
		return fmt.Errorf("webhook %q: %w", name, ErrReadOnly)
	}
	c := stored.config(name)
	if err := change(&c); err != nil {
		return err
	}
	c.Name = name
	if a.Detail == "" {
		a.Detail = changedSettings(stored.config(name), c)
	}
	if err := c.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	t, err := r.targetOf(c)
	if err != nil {
		return err
	}
	if err := w.reconfigure(ctx, store(c)); err != nil {
		return err
	}
	if err := w.configure(ctx, t); err != nil {
		return err
	}
	r.note(a)
	return nil
}

// reconfigure stores other settings.
func (w *webhook) reconfigure(ctx context.Context, c *storedConfig) error {
	if err := w.storing.take(ctx); err != nil {
		return err
	}
	defer w.storing.release()
	w.mu.Lock()
	before := w.record.Config
	w.record.Config = c
	w.mu.Unlock()
	if err := w.put(ctx); err != nil {
		w.mu.Lock()
		w.record.Config = before
		w.mu.Unlock()
		w.putBack(err)
		return err
	}
	return nil
}

// Rotate gives a webhook another secret, or makes one where none is given, and
// returns it. For the overlap the former one signs too.
func (r *Relay) Rotate(ctx context.Context, name, secret string, overlap time.Duration, who string) (string, error) {
	if secret == "" {
		secret = signature.NewSecret()
	}
	err := r.change(ctx, name, func(c *WebhookConfig) error {
		c.PreviousSecret, c.PreviousUntil = "", time.Time{}
		if overlap > 0 && c.Secret != "" {
			c.PreviousSecret, c.PreviousUntil = c.Secret, time.Now().Add(overlap).UTC()
		}
		c.Secret = secret
		return nil
	}, activity{What: "secret rotated", Who: who, Webhook: name, Detail: "overlap " + overlap.String()})
	if err != nil {
		return "", err
	}
	return secret, nil
}

// Delete removes a webhook that was added through the API and ends its waiting
// deliveries, which it counts.
func (r *Relay) Delete(ctx context.Context, name, who string) (ended int64, err error) {
	r.attachMu.Lock()
	defer r.attachMu.Unlock()
	w, err := r.find(name)
	if err != nil {
		return 0, err
	}
	w.mu.Lock()
	readOnly := w.record.Config == nil && w.target != nil
	w.mu.Unlock()
	if readOnly {
		return 0, fmt.Errorf("webhook %q: %w", name, ErrReadOnly)
	}
	// Nothing new is made for it, and what is under way is cut off first: an
	// attempt of a webhook that is gone would have nowhere to settle.
	w.mu.Lock()
	target := w.target
	w.target = nil
	w.mu.Unlock()
	w.wake(true)
	err = w.stop(ctx)
	if err == nil {
		ended, err = w.remove(ctx)
	}
	if err != nil {
		w.mu.Lock()
		w.target = target
		w.mu.Unlock()
		w.revive()
		return 0, err
	}
	r.forget(w)
	r.note(activity{What: "webhook deleted", Who: who, Webhook: name, Detail: fmt.Sprintf("%d waiting deliveries ended", ended)})
	return ended, nil
}

// remove takes the webhook's record out of the store.
func (w *webhook) remove(ctx context.Context) (ended int64, err error) {
	if err := w.storing.take(ctx); err != nil {
		return 0, err
	}
	defer w.storing.release()
	ended, err = w.relay.queue.DeleteWebhook(ctx, w.id, w.revision)
	if errors.Is(err, queue.ErrConflict) {
		if err = w.reread(ctx); err == nil {
			ended, err = w.relay.queue.DeleteWebhook(ctx, w.id, w.revision)
		}
	}
	if errors.Is(err, queue.ErrNotFound) {
		return 0, nil // by an earlier try that was given up
	}
	return ended, err
}

// Enable lets a webhook have new events again and releases what was held.
func (r *Relay) Enable(ctx context.Context, name, who string) error {
	w, err := r.find(name)
	if err != nil {
		return err
	}
	return w.setByOwner(ctx, Active, "", who)
}

// Disable gives a webhook no new events and holds what waits.
func (r *Relay) Disable(ctx context.Context, name, who string) error {
	w, err := r.find(name)
	if err != nil {
		return err
	}
	return w.setByOwner(ctx, Disabled, "disabled by "+who, who)
}

// Redeliver gives one delivery a fresh ladder, due now. A webhook whose breaker
// is open lets it out as its next probe, without the wait for that.
func (r *Relay) Redeliver(ctx context.Context, id queue.DeliveryID, who string) error {
	if err := r.queue.Requeue(ctx, id, time.Now()); err != nil {
		return err
	}
	name := ""
	r.mu.RLock()
	w := r.byID[id.Webhook]
	r.mu.RUnlock()
	if w != nil {
		name = w.name
		w.probeNow()
	}
	r.note(activity{What: "delivery requeued", Who: who, Webhook: name, Detail: id.String()})
	return nil
}
