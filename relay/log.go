package relay

import (
	"context"
	"encoding/hex"
	"log/slog"
	"time"

	"github.com/userhero/relay/queue"
)

// logDelivered logs a delivery that succeeded.
func (w *webhook) logDelivered(d *queue.Delivery, a *queue.Attempt) {
	if !w.relay.log.Enabled(context.Background(), slog.LevelDebug) {
		return // building the attributes costs too much if the line is not logged
	}
	w.relay.log.LogAttrs(context.Background(), slog.LevelDebug, "delivered", append(w.logged(d, a),
		slog.Int("status", a.Status), slog.Duration("duration", a.Duration))...)
}

// logFailed logs a failed attempt: at WARN at most once in repeatAfter for each
// webhook, else at DEBUG.
func (w *webhook) logFailed(d *queue.Delivery, a *queue.Attempt) {
	what, spare := "an attempt failed", &w.warnedAttempt
	if a.Next.IsZero() {
		what, spare = "a delivery failed for good", &w.warnedDelivery
	}
	w.mu.Lock()
	others, warn := spare.allow(time.Now())
	w.mu.Unlock()
	level := slog.LevelDebug
	if warn {
		level = slog.LevelWarn
	}
	if !w.relay.log.Enabled(context.Background(), level) {
		return
	}
	attrs := append(w.logged(d, a), slog.String("class", a.ErrorClass), slog.String("error", a.Error))
	if !a.Next.IsZero() {
		attrs = append(attrs, slog.Time("next", a.Next))
	}
	if warn && others > 0 {
		attrs = append(attrs, slog.Int("others", others))
	}
	w.relay.log.LogAttrs(context.Background(), level, what, attrs...)
}

// logUnsettled logs a settlement that the store refused. A store that failed refuses
// every settlement, so at most one line a minute is logged.
func (w *webhook) logUnsettled(what string, lease *queue.Lease, err error) {
	w.mu.Lock()
	others, tell := w.warnedStore.allow(time.Now())
	w.mu.Unlock()
	if tell {
		w.relay.log.Error(what, "webhook", w.name(), "event", lease.Event.ID.String(), "delivery", lease.Delivery.ID.String(),
			"others", others, "error", err)
	}
}

// logged returns the attributes of a line about an attempt, with Caddy's keys for its
// trace. They include neither the URL nor the body.
func (w *webhook) logged(d *queue.Delivery, a *queue.Attempt) []slog.Attr {
	return append(make([]slog.Attr, 0, 10),
		slog.String("webhook", w.name()),
		slog.String("event", d.ID.Event.String()),
		slog.String("delivery", d.ID.String()),
		slog.Int("attempt", d.Rung+1),
		slog.String("traceID", hex.EncodeToString(a.TraceID[:])),
		slog.String("spanID", hex.EncodeToString(a.SpanID[:])),
	)
}
