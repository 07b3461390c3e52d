package relay

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/notify"
)

// operational makes operational events of notices: a change of a webhook's state is an
// event for the webhooks that subscribe to it. The mailbox that calls it makes them
// durable and damps them, as it does with mails.
type operational struct{ relay *Relay }

var _ notify.Holder = operational{}

var operationalTypes = map[string]event.Type{
	notify.Failing: event.WebhookFailing, notify.Recovered: event.WebhookRecovered, notify.Disabled: event.WebhookDisabled,
}

// Holds reports whether webhooks subscribe to the notice and all of them are paused or
// disabled.
func (o operational) Holds(n notify.Notice) bool {
	ready, all := o.relay.subscribers(n)
	return len(ready) == 0 && all > 0
}

// Notify implements notify.Notifier.
func (o operational) Notify(ctx context.Context, notices []notify.Notice) error {
	for _, n := range notices {
		ids, _ := o.relay.subscribers(n)
		if len(ids) == 0 {
			continue
		}
		body, err := operationalDocument(n)
		if err != nil {
			return err
		}
		_, err = o.relay.queue.Enqueue(ctx, queue.Entry{
			Type: string(operationalTypes[n.Kind]), Created: time.Now(), Body: body, Webhooks: ids,
			Key: queue.Key{Name: "operational:" + n.Thread + ":" + n.Kind},
		})
		if err != nil {
			return notStored{err}
		}
	}
	return nil
}

// notStored is a temporary error.
type notStored struct{ error }

func (notStored) Temporary() bool { return true }

func (e notStored) Unwrap() error { return e.error }

// subscribers returns the webhooks that can take an operational event of this notice now,
// and how many subscribe to it.
func (r *Relay) subscribers(n notify.Notice) (ready []queue.WebhookID, all int) {
	about := subject{Name: n.Webhook, ID: n.ID, Projects: n.Projects}
	for _, w := range r.all() {
		t := w.currentTarget()
		if t == nil || !slices.Contains(t.config.Events, operationalTypes[n.Kind]) || !w.mayHear(about) {
			continue
		}
		all++
		if w.enabled() {
			ready = append(ready, w.id)
		}
	}
	return ready, all
}

// subject is the webhook that an operational event is about, as it was when its state
// changed. Since then it may have been renamed, moved to other projects or deleted, and
// another webhook may have its name.
type subject struct {
	Name string `json:"webhook"`
	// ID and Projects are missing in events of versions that did not store them.
	ID       queue.WebhookID `json:"webhookId"`
	Projects []string        `json:"projects"`
}

// subjectOf reads what an operational event is about. It returns the zero subject if the
// document cannot be read.
func subjectOf(body []byte) subject {
	var d struct {
		Data subject `json:"data"`
	}
	if json.Unmarshal(body, &d) != nil {
		return subject{}
	}
	return d.Data
}

// mayHear reports whether the webhook may get operational events about another webhook. It
// never gets events about itself. It must get feedback of all projects that the other
// webhook had. If the other webhook named none, or its projects are not known, only a
// webhook that names no projects gets its events.
func (w *webhook) mayHear(about subject) bool { // Promise 6: a team does not hear of the webhooks of others.
	t := w.currentTarget()
	if t == nil || w.id == about.ID || about.ID == 0 && w.name() == about.Name {
		return false
	}
	if len(t.config.Projects) == 0 {
		return true
	}
	return len(about.Projects) > 0 &&
		!slices.ContainsFunc(about.Projects, func(project string) bool { return !slices.Contains(t.config.Projects, project) })
}

// mayGet reports whether an event may be sent to the webhook. The webhook may get feedback
// of its projects. It may get an operational event if mayHear allows it and a delivery of
// the event to the webhook already exists.
func (r *Relay) mayGet(ctx context.Context, w *webhook, e queue.Event) (bool, error) {
	if !event.Type(e.Type).Operational() {
		return w.takes(e.Feedback), nil
	}
	if !w.mayHear(subjectOf(e.Body)) {
		return false, nil
	}
	_, err := r.queue.Delivery(ctx, queue.DeliveryID{Event: e.ID, Webhook: w.id})
	if errors.Is(err, queue.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// stillGets reports whether a waiting delivery can still be sent. The webhook's projects may
// have changed since the delivery was made.
func (w *webhook) stillGets(t task) bool {
	e := &t.lease.Event
	if !event.Type(e.Type).Operational() {
		return t.target.config.takes(e.Feedback)
	}
	return w.mayHear(subjectOf(e.Body))
}

// operationalDocument writes the document of an operational event (CONTRACT §4). Besides
// what the contract names, it has the webhook's number, which stays the same when the
// webhook is renamed, and the projects that the webhook names.
func operationalDocument(n notify.Notice) ([]byte, error) {
	type data struct {
		Webhook    string          `json:"webhook"`
		URL        string          `json:"url,omitempty"`
		Since      string          `json:"since,omitempty"`
		Reason     string          `json:"reason,omitempty"`
		ConsoleURL string          `json:"consoleUrl,omitempty"`
		ID         queue.WebhookID `json:"webhookId,omitempty"`
		Projects   []string        `json:"projects,omitempty"`
	}
	d := struct {
		Event     event.Type `json:"event"`
		Timestamp string     `json:"timestamp"`
		Data      data       `json:"data"`
	}{operationalTypes[n.Kind], seconds(n.At), data{
		Webhook: n.Webhook, URL: n.URL, Since: seconds(n.Since), Reason: n.Reason, ID: n.ID, Projects: n.Projects,
	}}
	if n.Console != "" {
		var err error
		if d.Data.ConsoleURL, err = url.JoinPath(n.Console, "webhooks", n.Webhook); err != nil {
			return nil, err
		}
	}
	written, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	return event.Canonical(written)
}

// seconds writes a time as documents have it; empty for the zero time.
func seconds(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}
