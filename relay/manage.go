package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/deliver"
	"github.com/userhero/relay/relay/signature"
)

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
	w, err := r.create(ctx, c.Name, record{Source: FromAPI, State: Active, Config: &c})
	if err != nil {
		return err
	}
	if err := w.configure(ctx, t); err != nil {
		return err
	}
	r.note(activity{What: "webhook added", Who: who, Webhook: c.Name, Detail: t.Host()})
	return nil
}

// targetOf compiles settings with the defaults of the current generation. To put them
// in force, hold r.attachMu.
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
	c := *stored
	if err := change(&c); err != nil {
		return err
	}
	c.Name = name
	if a.Detail == "" {
		a.Detail = changedSettings(*stored, c)
	}
	if err := c.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	t, err := r.targetOf(c)
	if err != nil {
		return err
	}
	if err := w.reconfigure(ctx, &c); err != nil {
		return err
	}
	if err := w.configure(ctx, t); err != nil {
		return err
	}
	r.note(a)
	return nil
}

// reconfigure stores other settings.
func (w *webhook) reconfigure(ctx context.Context, c *WebhookConfig) error {
	if err := w.storeLock.lock(ctx); err != nil {
		return err
	}
	defer w.storeLock.unlock()
	w.mu.Lock()
	before := w.record.Config
	w.record.Config = c
	w.mu.Unlock()
	if err := w.writeRecord(ctx); err != nil {
		w.mu.Lock()
		w.record.Config = before
		w.mu.Unlock()
		w.rewriteRecord(err)
		return err
	}
	return nil
}

// Rotate gives a webhook another secret and returns it. If none is given, it makes one.
// During the overlap the old secret also signs.
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
	// Attempts in flight end first: an attempt of a webhook that is gone could not be
	// settled.
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
		w.restart()
		return 0, err
	}
	r.forget(w)
	r.note(activity{What: "webhook deleted", Who: who, Webhook: name, Detail: fmt.Sprintf("%d waiting deliveries ended", ended)})
	return ended, nil
}

// remove takes the webhook's record out of the store.
func (w *webhook) remove(ctx context.Context) (ended int64, err error) {
	if err := w.storeLock.lock(ctx); err != nil {
		return 0, err
	}
	defer w.storeLock.unlock()
	ended, err = w.relay.queue.DeleteWebhook(ctx, w.id, w.revision)
	if errors.Is(err, queue.ErrConflict) {
		if err = w.readRevision(ctx); err == nil {
			ended, err = w.relay.queue.DeleteWebhook(ctx, w.id, w.revision)
		}
	}
	if errors.Is(err, queue.ErrNotFound) {
		return 0, nil // by an earlier try that was given up
	}
	return ended, err
}

// Enable queues new events for a webhook again and releases held deliveries.
func (r *Relay) Enable(ctx context.Context, name, who string) error {
	w, err := r.find(name)
	if err != nil {
		return err
	}
	return w.setByOwner(ctx, Active, "", who)
}

// Disable stops queueing new events for a webhook and holds waiting deliveries.
func (r *Relay) Disable(ctx context.Context, name, who string) error {
	w, err := r.find(name)
	if err != nil {
		return err
	}
	return w.setByOwner(ctx, Disabled, "disabled by "+who, who)
}

// Redeliver gives one delivery a fresh ladder, due now. If the webhook's breaker is
// open, the delivery is its next probe, at once.
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

// restart starts the webhook's goroutine again, after a stop; r.attachMu is held.
func (w *webhook) restart() {
	before := w.ended
	w.lifetime = w.relay.newLifetime()
	w.relay.mu.RLock()
	runs := w.relay.started && !w.relay.stopped
	w.relay.mu.RUnlock()
	if runs {
		now := w.lifetime
		w.relay.running.Go(func() {
			<-before // a webhook has one lane
			w.run(now)
		})
	}
}

// stop ends run and the attempts in flight, which do not count, and waits for them.
func (w *webhook) stop(ctx context.Context) error {
	w.quit()
	select {
	case <-w.ended:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Test sends the documented sample to a webhook now, through the same signer,
// client and egress guard as deliveries, marked X-UserHero-Test. It touches
// neither the queue nor the webhook's state, and works on disabled webhooks.
func (r *Relay) Test(ctx context.Context, name string) (TestResult, error) {
	w, err := r.find(name)
	if err != nil {
		return TestResult{}, err
	}
	w.mu.Lock()
	t := w.target
	w.mu.Unlock()
	if t == nil {
		return TestResult{}, errParked
	}
	return t.test(ctx, w.id, r.tracer), nil
}

// Try is Test for a webhook that is not there yet, with the settings it would
// have. Errors are those of Add.
func (r *Relay) Try(ctx context.Context, c WebhookConfig) (TestResult, error) {
	if err := c.Validate(); err != nil {
		return TestResult{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	t, err := r.targetOf(c)
	if err != nil {
		return TestResult{}, err
	}
	return t.test(ctx, 0, r.tracer), nil
}

// TestResult is what came of a test send.
type TestResult struct {
	OK      bool
	Attempt queue.Attempt
}

// Sample is the documented example of an event, as test sends carry it.
const Sample = `{"event":"feedback.created","timestamp":"2026-01-07T15:30:00Z","data":{"id":"fb_abc123","projectId":"proj_xyz",` +
	`"widgetId":"w_default","message":"The export button does nothing when I click it.","category":"bug","rating":2,"status":"new",` +
	`"screenshotUrl":"https://example.com/screenshots/fb_abc123.png","context":{"pageUrl":"/dashboard/reports","referrer":"/dashboard",` +
	`"browser":"Chrome","browserVersion":"120","os":"macOS","deviceType":"desktop","viewport":{"width":1920,"height":1080},` +
	`"timezone":"America/New_York","locale":"en-US","country":"US"},"metadata":{"userId":"user_123"},"createdAt":"2026-01-07T15:30:00Z"}}`

// probeNow allows the next probe at once: a person who asks for a delivery may know
// that the receiver works again. A Retry-After still holds it back.
func (w *webhook) probeNow() {
	w.mu.Lock()
	w.breaker.probe = time.Time{}
	w.mu.Unlock()
	w.wake(false)
}

// test sends the sample; the webhook's number becomes part of the delivery's id.
func (t *target) test(ctx context.Context, w queue.WebhookID, tracer trace.Tracer) TestResult {
	now := time.Now()
	id := queue.DeliveryID{Event: queue.NewEventID(now, 0, 0), Webhook: w}.String()
	ctx, span := startTest(ctx, tracer, t.config.Name, id)
	a, o := t.Attempt(ctx, deliver.Message{
		ID: id, Type: string(event.Created), Number: 1, Body: []byte(Sample), Tracer: tracer, Started: now, Test: true,
	})
	endProcess(span, o, 0, time.Time{})
	a.Number = 1
	return TestResult{OK: o.OK, Attempt: a}
}
