package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/feed"
)

// Activity is one entry of the activity log: what happened, and who did it. JSON is how it
// is stored.
type Activity struct {
	ID string    `json:"-"`
	At time.Time `json:"-"`

	What    string `json:"what"` // "webhook failing", "webhook recovered", …
	Who     string `json:"who"`  // a user's id, "admin", "caddyfile" or "relay"
	Webhook string `json:"webhook,omitempty"`
	Detail  string `json:"detail,omitempty"`
	// Projects are those of the webhook at that time. They are empty if it named none, and
	// in entries of versions without projects.
	Projects []string `json:"projects,omitempty"`
	// Data is what a console keeps with the entry, as JSON; nil if there is none.
	Data json.RawMessage `json:"data,omitempty"`
}

// Note adds an entry to the activity log, about now. Without Projects, it gets those of
// its webhook. If that fails, it only logs the error, because the change itself has
// already been made.
func (r *Relay) Note(a Activity) {
	ctx, cancel := context.WithTimeout(context.Background(), storeTime)
	defer cancel()
	if a.Projects == nil {
		a.Projects = r.projectsOf(a.Webhook)
	}
	data, err := json.Marshal(a)
	if err == nil {
		err = r.queue.AppendActivity(ctx, queue.Activity{At: time.Now(), Data: data})
	}
	if err == nil && r.feed.HasListeners() {
		r.feed.Publish(feed.Happening{Kind: feed.Activity, What: a.What, Who: a.Who, Webhook: a.Webhook, Detail: a.Detail, Projects: a.Projects})
	}
	if err != nil && !errors.Is(err, queue.ErrClosed) {
		r.log.Warn("the activity log misses a line", "what", a.What, "webhook", a.Webhook, "error", err)
	}
}

// Activities lists the activity log, newest first.
func (r *Relay) Activities(ctx context.Context, limit int, cursor string) (queue.Page[Activity], error) {
	stored, err := r.queue.Activities(ctx, limit, cursor)
	page := queue.Page[Activity]{Next: stored.Next}
	for _, s := range stored.Items {
		a := Activity{ID: s.ID, At: s.At}
		if err := json.Unmarshal(s.Data, &a); err != nil {
			return page, fmt.Errorf("reading activity %s: %w", s.ID, err)
		}
		page.Items = append(page.Items, a)
	}
	return page, err
}

// stateChanged reports a new state to the observer and to the feed.
func (r *Relay) stateChanged(webhook, from, to, reason string) {
	r.observer.StateChanged(webhook, from, to)
	if r.feed.HasListeners() {
		r.feed.Publish(feed.Happening{Kind: feed.State, Webhook: webhook, From: from, To: to, Reason: reason, Projects: r.projectsOf(webhook)})
	}
}

// projectsOf returns the projects of a webhook; nil if it names none or does not exist.
func (r *Relay) projectsOf(name string) []string {
	w, err := r.find(name)
	if err != nil {
		return nil
	}
	return w.projects()
}

// ProjectsOf returns the projects of a webhook by its number; nil if it names none, is
// parked or does not exist.
func (r *Relay) ProjectsOf(id queue.WebhookID) []string {
	r.mu.RLock()
	w := r.byID[id]
	r.mu.RUnlock()
	if w == nil {
		return nil
	}
	return w.projects()
}

// Subscribe opens a subscription. The caller must close it. If see is not nil, the
// subscription has only the happenings for which it reports true, as it returns them.
// It is called under a lock: it must be quick, and must not call the relay.
func (r *Relay) Subscribe(see func(feed.Happening) (feed.Happening, bool)) *feed.Subscription {
	s, only := r.feed.Subscribe(see, r.lanes.Done())
	if only && r.shared {
		go r.tell(said{Listening: true})
	}
	return s
}
