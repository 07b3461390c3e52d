package notify

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/redact"
)

const (
	maxGroup = 100
	// messageTimeout bounds one call of a notifier. A mail server may take 10 minutes
	// to accept a mail (RFC 5321 §4.5.3.2.6).
	messageTimeout = 15 * time.Minute
	// maxNoticeAge is the age at which a notice is dropped if its notifier is not
	// configured.
	maxNoticeAge = 48 * time.Hour
)

// ladder holds the delays before each retry of a message.
var ladder = []time.Duration{time.Minute, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 24 * time.Hour}

// mailbox holds the lane of one notifier and the goroutine that sends its notices.
type mailbox struct {
	sender  *Sender
	id      queue.WebhookID
	number  int     // the notifier's index in the configuration
	damping damping // used only by run
}

// run sends the notices of the mailbox until the relay stops.
func (m *mailbox) run() {
	lane, err := m.sender.o.Queue.Lane(m.id, queue.LaneOptions{MaxInFlight: maxGroup})
	if err != nil {
		m.sender.o.Logger.Error("no notices are sent", "error", err)
		return
	}
	defer func() { _ = lane.Close() }()
	for ctx := m.sender.o.Lanes; ctx.Err() == nil; {
		group, err := m.gather(ctx, lane)
		if err != nil && ctx.Err() == nil {
			m.sender.o.Logger.Error("no notices are sent", "error", err)
			return
		}
		if len(group) > 0 {
			m.send(ctx, group)
		}
	}
}

// gather waits for a notice, then for further ones until the grouping time is over.
func (m *mailbox) gather(ctx context.Context, lane queue.Lane) ([]*queue.Lease, error) {
	group, err := lane.Next(ctx, maxGroup)
	if err != nil {
		return nil, err
	}
	until := group[0].Event.Created.Add(m.sender.groupWithin())
	if group[0].Delivery.Rung > 0 {
		until = time.Now() // it has waited long enough
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

// send sends one message for a group of notices and settles their leases.
func (m *mailbox) send(ctx context.Context, group []*queue.Lease) {
	o := m.sender.o
	notifier, console := m.sender.notifier(m.number)
	if ctx.Err() != nil {
		for _, l := range group {
			_ = l.Defer(time.Now()) // an error means that the lane closed, which also gives the lease back
		}
		return
	}
	if notifier == nil {
		m.keep(group)
		return
	}
	group, notices := m.choose(group)
	if len(notices) == 0 {
		return
	}
	for i := range notices {
		notices[i].Console = console
	}
	started := time.Now()
	sending, cancel := context.WithTimeout(o.Attempts, messageTimeout)
	defer cancel()
	err := notifier.Notify(sending, notices)
	a := queue.Attempt{At: started.UTC(), Duration: time.Since(started)}
	outcome := "ok"
	switch {
	case o.Attempts.Err() != nil && err != nil:
		for _, l := range group {
			_ = l.Defer(time.Time{})
		}
		return
	case err == nil:
		m.damping.sent(notices)
	case temporaryError(err):
		outcome, a.Error, a.ErrorClass = "retry", redact.Error(err), "mail"
	default:
		outcome, a.Error, a.ErrorClass = "failed", redact.Error(err), "mail"
	}
	for _, l := range group {
		var settled error
		switch rung := l.Delivery.Rung; {
		case err == nil:
			settled = l.Ack(a)
		case outcome == "retry" && rung < len(ladder):
			settled = l.Retry(time.Now().Add(ladder[rung]), a)
		default:
			settled = l.Dead(a)
		}
		m.logSettled(settled)
	}
	for _, n := range notices {
		o.Sent(n, outcome, err)
	}
	if err != nil {
		o.Logger.Error("a notice was not sent", "notices", len(notices), "outcome", outcome, "error", redact.Error(err))
	}
}

// keep gives back a mailbox's leases while its notifier is not configured. It ends
// notices that are too old to be useful later.
func (m *mailbox) keep(group []*queue.Lease) {
	now := time.Now()
	for _, l := range group {
		if now.Sub(l.Event.Created) < maxNoticeAge {
			_ = l.Defer(now.Add(defaultGroupWithin))
			continue
		}
		m.logSettled(l.Dead(queue.Attempt{At: now.UTC(), Error: "no notifier is configured", ErrorClass: "mail"}))
	}
}

// choose returns the notices of a group to send now, with their leases: at most the
// last one of each webhook. Notices that a later change has replaced are settled
// unsent. A webhook that fails and recovers over and over is reported once within
// dampWithin, with its state at that time.
func (m *mailbox) choose(group []*queue.Lease) ([]*queue.Lease, []Notice) {
	now := time.Now()
	last := make(map[string]*queue.Lease)
	notices := make(map[*queue.Lease]Notice)
	for _, l := range group {
		var n Notice
		if err := json.Unmarshal(l.Event.Body, &n); err != nil {
			m.sender.o.Logger.Error("a notice cannot be read", "event", l.Event.ID.String(), "error", err)
			m.logSettled(l.Dead(queue.Attempt{At: now.UTC(), Error: "it cannot be read", ErrorClass: "mail"}))
			continue
		}
		notices[l] = n
		before := last[n.Webhook]
		switch {
		case m.sender.o.Overtaken(n):
			m.skip(l, n)
		case before == nil:
			last[n.Webhook] = l
		case notices[before].At.After(n.At):
			m.skip(l, n)
		default:
			m.skip(before, notices[before])
			last[n.Webhook] = l
		}
	}
	var chosen []*queue.Lease
	var sent []Notice
	for _, l := range group {
		n, ok := notices[l]
		if !ok || last[n.Webhook] != l {
			continue
		}
		if until := m.damping.of(n.Webhook).hold(n, now); until.After(now) {
			_ = l.Defer(until)
			continue
		}
		n.Changes = m.damping.of(n.Webhook).changes
		chosen, sent = append(chosen, l), append(sent, n)
	}
	return chosen, sent
}

// skip settles a notice that a later one has replaced.
func (m *mailbox) skip(l *queue.Lease, n Notice) {
	m.damping.skipped(n)
	m.logSettled(l.Ack(queue.Attempt{At: time.Now().UTC()}))
}

func (m *mailbox) logSettled(err error) {
	if err != nil {
		m.sender.o.Logger.Error("a notice was not settled; it will be sent again", "error", err)
	}
}

func temporaryError(err error) bool {
	var t interface{ Temporary() bool }
	return errors.As(err, &t) && t.Temporary()
}
