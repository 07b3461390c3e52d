package relay

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/deliver"
)

// Sample is the documented example of an event, as test sends carry it.
const Sample = `{"event":"feedback.created","timestamp":"2026-01-07T15:30:00Z","data":{"id":"fb_abc123","projectId":"proj_xyz",` +
	`"widgetId":"w_default","message":"The export button does nothing when I click it.","category":"bug","rating":2,"status":"new",` +
	`"screenshotUrl":"https://example.com/screenshots/fb_abc123.png","context":{"pageUrl":"/dashboard/reports","referrer":"/dashboard",` +
	`"browser":"Chrome","browserVersion":"120","os":"macOS","deviceType":"desktop","viewport":{"width":1920,"height":1080},` +
	`"timezone":"America/New_York","locale":"en-US","country":"US"},"metadata":{"userId":"user_123"},"createdAt":"2026-01-07T15:30:00Z"}}`

// TestResult is what came of a test send.
type TestResult struct {
	OK      bool
	Attempt queue.Attempt
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
