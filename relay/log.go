package relay

import (
	"context"
	"encoding/hex"
	"log/slog"
	"time"

	"github.com/userhero/relay/queue"
)

// logDelivered writes a line about a delivery that arrived.
func (w *webhook) logDelivered(d *queue.Delivery, a *queue.Attempt) {
	if !w.relay.log.Enabled(context.Background(), slog.LevelDebug) {
		return // what a line is made of costs more than an attempt should
	}
	w.relay.log.LogAttrs(context.Background(), slog.LevelDebug, "delivered", append(w.logged(d, a),
		slog.Int("status", a.Status), slog.Duration("duration", a.Duration))...)
}

// logFailed writes a line about an attempt that failed: the first of a webhook
// in a while as a warning, the others for who wants to see all.
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

// logUnsettled writes a line about a settlement that the store refused. A store
// that has failed refuses all of them, so one in a while is enough.
func (w *webhook) logUnsettled(what string, lease *queue.Lease, err error) {
	w.mu.Lock()
	others, tell := w.warnedStore.allow(time.Now())
	w.mu.Unlock()
	if tell {
		w.relay.log.Error(what, "webhook", w.name, "event", lease.Event.ID.String(), "delivery", lease.Delivery.ID.String(),
			"others", others, "error", err)
	}
}

// logged says which attempt a line is about, with Caddy's own keys for its
// trace. Neither the URL nor the body is part of it.
func (w *webhook) logged(d *queue.Delivery, a *queue.Attempt) []slog.Attr {
	return append(make([]slog.Attr, 0, 10),
		slog.String("webhook", w.name),
		slog.String("event", d.ID.Event.String()),
		slog.String("delivery", d.ID.String()),
		slog.Int("attempt", d.Rung+1),
		slog.String("traceID", hex.EncodeToString(a.TraceID[:])),
		slog.String("spanID", hex.EncodeToString(a.SpanID[:])),
	)
}
