package relay

import (
	"context"
	"fmt"
	"strings"
	"time"

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
	if m.Body, m.MediaType, err = t.turns.Make(ctx, t.body, e); err != nil {
		if ctx.Err() != nil {
			return queue.Attempt{}, deliver.Outcome{Canceled: true}
		}
		return deliver.NoBody(ctx, m, err)
	}
	m.Started = time.Now() // the time limit does not include the wait for a turn
	a, o := t.Attempt(ctx, m)
	if t.body != nil {
		a.RequestBody = m.Body
	}
	return a, o
}

// Preview is what a body makes of one event.
type Preview struct {
	Event     queue.EventID // zero: the documented sample
	Body      []byte
	MediaType string
	Err       error // why the body cannot be made
}

// previewed is the most events that Preview reads to find one of the projects.
const previewed = 200

// Preview returns what a body makes of the documented sample and of the newest feedback of
// the projects, if there is any. Without projects it uses the newest feedback of all. The
// error is ErrInvalid if the body is wrong.
func (r *Relay) Preview(ctx context.Context, name string, projects []string, source string) ([]Preview, error) {
	b, err := body.Compile(source)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, &deliver.SettingError{Setting: "body", Err: err})
	}
	r.mu.RLock()
	console := ""
	if r.current != nil {
		console = strings.TrimSuffix(r.current.config.ConsoleURL, "/")
	}
	r.mu.RUnlock()
	preview := func(id queue.EventID, t event.Type, document []byte, page string) (p Preview) {
		e := body.Event{Type: t, Document: document, Webhook: name}
		if console != "" {
			e.Link = console + page
		}
		p.Event = id
		p.Body, p.MediaType, p.Err = b.Make(e)
		return p
	}
	all := []Preview{preview(queue.EventID{}, event.Created, []byte(Sample), "/webhooks/"+name)}
	newest, err := r.queue.Events(ctx, queue.EventQuery{Limit: previewed})
	if err != nil {
		return nil, err
	}
	for _, e := range newest.Items {
		if !event.Type(e.Type).Operational() && (WebhookConfig{Projects: projects}).takes(e.Feedback) {
			return append(all, preview(e.ID, event.Type(e.Type), e.Body, "/events/"+e.ID.String())), nil
		}
	}
	return all, nil
}
