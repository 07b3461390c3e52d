package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/userhero/relay/queue"
)

// Notifier tells people about webhooks. An error that has Temporary() true is
// tried again on the mails' own ladder; others are final.
type Notifier interface {
	// Notify sends one message about all notices, which belong together in time.
	Notify(ctx context.Context, notices []Notice) error
}

// The kinds of notices.
const (
	NoticeFailing   = "failing"
	NoticeRecovered = "recovered"
	NoticeDisabled  = "disabled"
	// NoticeWarning: attempts fail, retries are left.
	NoticeWarning = "warning"
)

// Notice is one change of a webhook's state that its owner should know of. It
// has no payload and no secret.
type Notice struct {
	Kind    string    `json:"kind"`
	Webhook string    `json:"webhook"`
	URL     string    `json:"url"` // without query
	At      time.Time `json:"at"`
	// Since is when it began to fail.
	Since  time.Time `json:"since,omitzero"`
	Reason string    `json:"reason,omitempty"`
	// Thread is the same for what belongs to one time of failing.
	Thread string `json:"thread"`
}

const (
	// noticeType is the type of the events that carry notices; the dot keeps them
	// out of every list.
	noticeType = ".notice"
	// mailbox is the name of the record that is their webhook; no user can take it.
	mailbox = ".mailbox"
	// defaultGroupWithin is how long notices wait for others, to go out as one
	// message.
	defaultGroupWithin = 60 * time.Second
	maxGroup           = 100
	mailTimeout        = 2 * time.Minute
)

// mail is the durable way from a change of state to a message: notices are
// events in the queue like any other, with a lane of their own.
type mail struct {
	relay *Relay
	id    queue.WebhookID
}

// openMail finds or makes the mailbox, and begins to send what is in it, the
// first time that settings name a notifier; r.attachMu is held.
func (r *Relay) openMail(ctx context.Context) error {
	r.mu.RLock()
	opened := r.mail != nil || r.stopped
	r.mu.RUnlock()
	if opened {
		return nil
	}
	stored, err := r.queue.Webhooks(ctx)
	if err != nil {
		return fmt.Errorf("looking for the mailbox: %w", err)
	}
	i := slices.IndexFunc(stored, func(s queue.Webhook) bool { return s.Name == mailbox })
	if i < 0 {
		s, err := r.queue.PutWebhook(ctx, queue.Webhook{Name: mailbox, Data: []byte("{}")})
		if err != nil {
			return fmt.Errorf("making the mailbox: %w", err)
		}
		stored, i = []queue.Webhook{s}, 0
	}
	m := &mail{relay: r, id: stored[i].ID}
	r.mu.Lock()
	r.mail = m
	r.mu.Unlock()
	r.running.Go(m.run)
	return nil
}

// tell posts a notice where somebody is to be told.
func (r *Relay) tell(n Notice) {
	r.mu.RLock()
	m := r.mail
	r.mu.RUnlock()
	if m != nil && r.notifier() != nil {
		m.post(n)
	}
}

// notifier is that of the generation in force, or nil.
func (r *Relay) notifier() Notifier {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.current == nil {
		return nil
	}
	return r.current.config.Notifier
}

// groupWithin is how long notices wait for others.
func (r *Relay) groupWithin() time.Duration {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.groupWithinLocked()
}

func (r *Relay) groupWithinLocked() time.Duration {
	if r.current == nil || r.current.config.GroupNotices == 0 {
		return defaultGroupWithin
	}
	return r.current.config.GroupNotices
}

// post puts a notice into the mailbox, once: its key is that of the change.
func (m *mail) post(n Notice) {
	body, err := json.Marshal(n)
	if err != nil {
		panic(err) // strings and times of this century always marshal
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeTime)
	defer cancel()
	_, err = m.relay.queue.Enqueue(ctx, queue.Entry{
		Type: noticeType, Created: time.Now(), Body: body, Webhooks: []queue.WebhookID{m.id},
		Key: queue.Key{Name: "notice:" + n.Thread + ":" + n.Kind},
	})
	if err != nil && !errors.Is(err, queue.ErrClosed) {
		m.relay.log.Error("nobody will be told of a webhook's state", "webhook", n.Webhook, "kind", n.Kind, "error", err)
	}
}

// run sends what is in the mailbox, until the relay stops.
func (m *mail) run() {
	lane, err := m.relay.queue.Lane(m.id, queue.LaneOptions{MaxInFlight: maxGroup})
	if err != nil {
		m.relay.log.Error("no notices are sent", "error", err)
		return
	}
	defer func() { _ = lane.Close() }()
	for ctx := m.relay.lanes; ctx.Err() == nil; {
		group, err := m.gather(ctx, lane)
		if err != nil && ctx.Err() == nil {
			m.relay.log.Error("no notices are sent", "error", err)
			return
		}
		if len(group) > 0 {
			m.send(ctx, group)
		}
	}
}

// gather waits for a notice and then, as long as it may, for others.
func (m *mail) gather(ctx context.Context, lane queue.Lane) ([]*queue.Lease, error) {
	group, err := lane.Next(ctx, maxGroup)
	if err != nil {
		return nil, err
	}
	until := group[0].Event.Created.Add(m.relay.groupWithin())
	if group[0].Delivery.Rung > 0 {
		until = time.Now() // it has waited
	}
	waiting, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	for len(group) < maxGroup {
		more, err := lane.Next(waiting, maxGroup-len(group))
		if err != nil {
			break
		}
		group = append(group, more...)
	}
	return group, nil
}

// send makes one message of a group and settles its leases.
func (m *mail) send(ctx context.Context, group []*queue.Lease) {
	r := m.relay
	notifier := r.notifier()
	if ctx.Err() != nil || notifier == nil {
		at := time.Now()
		if notifier == nil {
			at = at.Add(defaultGroupWithin) // the configuration has none at the moment
		}
		for _, l := range group {
			_ = l.Defer(at) // lost with the lane otherwise, which is the same
		}
		return
	}
	notices := make([]Notice, 0, len(group))
	for _, l := range group {
		var n Notice
		if err := json.Unmarshal(l.Event.Body, &n); err != nil {
			r.log.Error("a notice cannot be read", "event", l.Event.ID.String(), "error", err)
			continue
		}
		notices = append(notices, n)
	}
	started := time.Now()
	sending, cancel := context.WithTimeout(r.attempts, mailTimeout)
	defer cancel()
	err := notifier.Notify(sending, notices)
	a := queue.Attempt{At: started.UTC(), Duration: time.Since(started)}
	outcome := "ok"
	switch {
	case r.attempts.Err() != nil && err != nil:
		for _, l := range group {
			_ = l.Defer(time.Time{})
		}
		return
	case err == nil:
	case temporaryError(err):
		outcome, a.Error, a.ErrorClass = "retry", redacted(err), "mail"
	default:
		outcome, a.Error, a.ErrorClass = "failed", redacted(err), "mail"
	}
	for _, l := range group {
		due, more := nextDue(DefaultLadder(), l.Delivery.Rung, time.Now(), 0)
		var settled error
		switch {
		case err == nil:
			settled = l.Ack(a)
		case outcome == "retry" && more:
			settled = l.Retry(due, a)
		default:
			settled = l.Dead(a)
		}
		if settled != nil {
			r.log.Error("a notice was not settled; it will be sent again", "error", settled)
		}
	}
	for _, n := range notices {
		r.observer.Mailed(n.Kind, outcome)
		detail := n.Kind
		if err != nil {
			detail += ": " + outcome + ": " + redacted(err)
		}
		r.note(activity{What: "notice sent", Who: "relay", Webhook: n.Webhook, Detail: detail})
	}
	if err != nil {
		r.log.Error("a notice was not sent", "notices", len(notices), "outcome", outcome, "error", redacted(err))
	}
}

func temporaryError(err error) bool {
	var t interface{ Temporary() bool }
	return errors.As(err, &t) && t.Temporary()
}
