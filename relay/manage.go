package relay

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/deliver"
	"github.com/userhero/relay/relay/signature"
)

// Add creates a webhook. It gets the events that are accepted from now on and that it
// wants. The activity log records who added it.
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
	r.Note(Activity{What: "webhook added", Who: who, Webhook: c.Name, Detail: t.Host()})
	return nil
}

// targetOf compiles settings with the defaults of the current generation. The caller
// must hold r.attachMu to put them in force.
func (r *Relay) targetOf(c WebhookConfig) (*target, error) {
	r.mu.RLock()
	g := r.current
	r.mu.RUnlock()
	if g == nil {
		return nil, errors.New("no configuration is in force yet; try again in a moment")
	}
	t, err := g.target(c)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return t, nil
}

// Change changes the settings of a webhook that was added through the API. If it
// changes the name, the webhook keeps everything else: its deliveries, its state and the
// attempts in flight.
func (r *Relay) Change(ctx context.Context, name string, change func(*WebhookConfig) error, who string) error {
	return r.change(ctx, name, change, Activity{What: "webhook changed", Who: who, Webhook: name})
}

func (r *Relay) change(ctx context.Context, name string, change func(*WebhookConfig) error, a Activity) error {
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
	if c.Name != name {
		if _, err := r.find(c.Name); err == nil {
			return fmt.Errorf("webhook %q: %w", c.Name, ErrExists)
		}
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
	if c.Name != name {
		r.renamed(w, name)
		r.Note(Activity{What: "webhook renamed", Who: a.Who, Webhook: c.Name, Detail: "was " + name})
	}
	if err := w.configure(ctx, t); err != nil {
		return err
	}
	if a.Detail == "" {
		before := *stored
		before.Name = c.Name
		a.Detail = changedSettings(before, c)
	}
	if a.Webhook = c.Name; a.Detail != "" || c.Name == name {
		r.Note(a)
	}
	return nil
}

// renamed makes the relay find a webhook by its new name.
func (r *Relay) renamed(w *webhook, before string) {
	r.mu.Lock()
	delete(r.webhooks, before)
	r.webhooks[w.name()] = w
	r.mu.Unlock()
	r.observer.Deleted(before) // the counters of the old name end
}

// reconfigure stores the settings, and the name with them, and puts them in force.
func (w *webhook) reconfigure(ctx context.Context, c *WebhookConfig) error {
	if err := w.storeLock.lock(ctx); err != nil {
		return err
	}
	defer w.storeLock.unlock()
	set := func(c *WebhookConfig) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.record.Config = c
		if c.Name != w.name() {
			w.named.Store(newNaming(c.Name))
		}
	}
	before := w.apiConfig()
	set(c)
	if err := w.writeRecord(ctx); err != nil {
		set(before)
		w.rewriteRecord(err)
		return err
	}
	return nil
}

// Rotate replaces a webhook's secret and returns the new one. If secret is empty,
// Rotate generates one. During the overlap the old secret also signs.
func (r *Relay) Rotate(ctx context.Context, name, secret string, overlap time.Duration, who string) (string, error) {
	if secret == "" {
		secret = signature.NewSecret()
	}
	err := r.change(ctx, name, func(c *WebhookConfig) error {
		c.PreviousSecret, c.PreviousUntil = retired(c.Secret, overlap)
		c.Secret = secret
		return nil
	}, Activity{What: "secret rotated", Who: who, Webhook: name, Detail: "overlap " + overlap.String()})
	if err != nil {
		return "", err
	}
	return secret, nil
}

// retired returns what signs besides a new secret or key, and until when. If there was none,
// or without an overlap, nothing does.
func retired(old string, overlap time.Duration) (string, time.Time) {
	if old == "" || overlap <= 0 {
		return "", time.Time{}
	}
	return old, time.Now().Add(overlap).UTC()
}

// RotateSigningKey replaces a webhook's signing key, an ed25519 private key. If key is empty,
// RotateSigningKey generates one; nobody ever sees it. During the overlap the old key also signs.
func (r *Relay) RotateSigningKey(ctx context.Context, name, key string, overlap time.Duration, who string) error {
	if key == "" {
		key = signature.NewKey().String()
	}
	return r.change(ctx, name, func(c *WebhookConfig) error {
		c.PreviousSigningKey, c.PreviousSigningUntil = retired(c.SigningKey, overlap)
		c.SigningKey = key
		return nil
	}, Activity{What: "signing key rotated", Who: who, Webhook: name, Detail: "overlap " + overlap.String()})
}

// Delete removes a webhook that was added through the API and cancels its waiting
// deliveries. It returns how many it cancelled.
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
	// End the attempts in flight first: they could not be settled after the webhook is
	// deleted.
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
	a := Activity{What: "webhook deleted", Who: who, Webhook: name, Detail: fmt.Sprintf("%d waiting deliveries ended", ended)}
	if target != nil {
		a.Projects = target.config.Projects
	}
	r.Note(a)
	return ended, nil
}

// remove deletes the webhook's record from the store.
func (w *webhook) remove(ctx context.Context) (ended int64, err error) {
	if err := w.storeLock.lock(ctx); err != nil {
		return 0, err
	}
	defer w.storeLock.unlock()
	ended, err = w.relay.queue.DeleteWebhook(ctx, w.id, w.stored.Revision)
	if errors.Is(err, queue.ErrConflict) {
		if _, err = w.readStored(ctx); err == nil {
			ended, err = w.relay.queue.DeleteWebhook(ctx, w.id, w.stored.Revision)
		}
	}
	if errors.Is(err, queue.ErrNotFound) {
		return 0, nil // an earlier call timed out but deleted it
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
	return w.setByOwner(ctx, Disabled, pausedBy+who, who)
}

// pausedBy begins the reason of a webhook that a person paused.
const pausedBy = "disabled by "

// PausedBy returns who paused a webhook with this reason. It reports false if nobody
// did: the webhook gets events, or the receiver's 410 or the Caddyfile disabled it.
func PausedBy(reason string) (who string, ok bool) { return strings.CutPrefix(reason, pausedBy) }

// Redeliver gives one delivery a fresh ladder, due now. If the webhook's breaker is
// open, the delivery goes out at once as the next probe. The error wraps
// queue.ErrConflict if the delivery is being attempted, or if the webhook no longer
// gets feedback of this project.
func (r *Relay) Redeliver(ctx context.Context, id queue.DeliveryID, who string) error {
	name, err := r.Requeue(ctx, id)
	if err == nil {
		r.Note(Activity{What: "delivery requeued", Who: who, Webhook: name, Detail: id.String()})
	}
	return err
}

// Requeue does what Redeliver does for one of many deliveries, without a line in the
// activity log: Note adds one for all. It returns the name of the webhook; empty
// if it was deleted.
func (r *Relay) Requeue(ctx context.Context, id queue.DeliveryID) (webhook string, err error) {
	r.mu.RLock()
	w := r.byID[id.Webhook]
	r.mu.RUnlock()
	if w != nil {
		webhook = w.name()
		e, err := r.queue.Event(ctx, id.Event)
		if err != nil {
			return webhook, err
		}
		may, err := r.mayGet(ctx, w, e)
		if err != nil {
			return webhook, err
		}
		if !may {
			return webhook, fmt.Errorf("webhook %q does not get feedback of this project: %w", webhook, queue.ErrConflict)
		}
	}
	if err := r.queue.Requeue(ctx, id, time.Now()); err != nil {
		return webhook, err
	}
	if w != nil {
		w.probeNow()
	}
	return webhook, nil
}

// restart starts the webhook's goroutine again after stop. The caller holds r.attachMu.
func (w *webhook) restart() {
	before := w.ended
	w.lifetime = w.relay.newLifetime()
	w.relay.mu.RLock()
	runs := w.relay.started && !w.relay.stopped
	w.relay.mu.RUnlock()
	if runs {
		now := w.lifetime
		w.relay.running.Go(func() {
			<-before // the old goroutine closes its lane first; a webhook has only one
			w.run(now)
		})
	}
}

// stop ends run and cancels the attempts in flight, which are not counted. It waits for
// both.
func (w *webhook) stop(ctx context.Context) error {
	w.quit()
	select {
	case <-w.ended:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Test sends the documented sample to a webhook now, marked X-UserHero-Test. It uses
// the same signer, client and egress guard as deliveries. It changes neither the queue
// nor the webhook's state, and works if the webhook is disabled.
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

// Try does what Test does for a webhook that does not exist yet, with the given
// settings. It returns the errors of Add.
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

// TestResult is the result of a test send.
type TestResult struct {
	OK      bool
	Attempt queue.Attempt
}

// Sample is the documented example of an event. Test sends use it as their body.
const Sample = `{"event":"feedback.created","timestamp":"2026-01-07T15:30:00Z","data":{"id":"fb_abc123","projectId":"proj_xyz",` +
	`"widgetId":"w_default","message":"The export button does nothing when I click it.","category":"bug","rating":2,"status":"new",` +
	`"screenshotUrl":"https://example.com/screenshots/fb_abc123.png","context":{"pageUrl":"/dashboard/reports","referrer":"/dashboard",` +
	`"browser":"Chrome","browserVersion":"120","os":"macOS","deviceType":"desktop","viewport":{"width":1920,"height":1080},` +
	`"timezone":"America/New_York","locale":"en-US","country":"US"},"metadata":{"userId":"user_123"},"createdAt":"2026-01-07T15:30:00Z"}}`

// probeNow allows the next probe at once: a person who requests a delivery may know
// that the receiver works again. A Retry-After still holds it back.
// If another relay owns the lane, probeNow sends that relay a message.
func (w *webhook) probeNow() {
	w.allowProbe()
	if w.relay.shared {
		w.relay.tell(said{Probe: w.id})
	}
}

func (w *webhook) allowProbe() {
	w.mu.Lock()
	w.breaker.ProbeNow()
	w.mu.Unlock()
	w.wake(false)
}

// beginGently starts the window at one, here or where the lane is owned, because many
// deliveries become due.
func (w *webhook) beginGently() {
	w.restartWindow()
	if w.relay.shared {
		w.relay.tell(said{Gently: w.id})
	}
}

func (w *webhook) restartWindow() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.window.Restart(w.underWay)
}

// test sends the sample. The delivery's id contains the webhook's number.
func (t *target) test(ctx context.Context, w queue.WebhookID, tracer trace.Tracer) TestResult {
	now := time.Now()
	id := queue.DeliveryID{Event: queue.NewEventID(now, 0, 0), Webhook: w}.String()
	ctx, span := startTest(ctx, tracer, t.config.Name, id)
	a, o := t.attempt(ctx, deliver.Message{
		ID: id, Type: string(event.Created), Number: 1, Tracer: tracer, Started: now, Test: true,
	}, []byte(Sample), "/webhooks/"+t.config.Name)
	span.end(o, 0, time.Time{})
	a.Number = 1
	return TestResult{OK: o.OK, Attempt: a}
}
