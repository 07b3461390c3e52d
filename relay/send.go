package relay

import (
	"context"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/body"
	"github.com/userhero/relay/relay/deliver"
)

// attempt makes one attempt to send an event. The message has no body yet. page is the
// event's page below the console.
func (t *target) attempt(ctx context.Context, m deliver.Message, document []byte, page string) (queue.Attempt, deliver.Outcome) {
	e := body.Event{Type: event.Type(m.Type), Document: document, Webhook: t.config.Name}
	if t.console != "" {
		e.Link = t.console + page
	}
	var err error
	if m.Body, m.MediaType, err = t.body.Make(e); err != nil {
		return deliver.NoBody(ctx, m, err)
	}
	a, o := t.Attempt(ctx, m)
	if t.body != nil {
		a.RequestBody = m.Body
	}
	return a, o
}
