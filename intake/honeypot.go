package intake

import (
	"context"
	"net/http"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
)

// trapped reports whether the honeypot is filled in, and takes it out of the
// feedback.
func (h *Handler) trapped(feedback *event.Feedback) bool {
	if h.honeypot == "" {
		return false
	}
	if value, _ := feedback.Take(h.honeypot); value == "" {
		return false
	}
	h.observer.Rejected("honeypot")
	return true
}

// keepCaught completes what a honeypot caught, for an answer that gives nothing
// away, and keeps it where the console shows it: a browser may have filled the field
// in for a person.
func (h *Handler) keepCaught(r *http.Request, s scope, feedback *event.Feedback) error {
	now := time.Now()
	feedback.Fill(h.defaults(r, s, feedback))
	feedback.Complete(now, event.NewID)
	document, err := feedback.Document(event.Created, now)
	if err != nil {
		return err
	}
	ctx := context.WithoutCancel(r.Context()) // stored also if the client has gone, as a submission is
	return h.relay.KeepCaught(ctx, queue.Caught{At: now, Body: document})
}
