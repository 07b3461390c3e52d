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
	until := group[0].Event.Created.Add(m.sender.groupWithin(m.number))
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

// send sends a group of notices, one message to each owner and one to those whom the
// notifier's settings name.
func (m *mailbox) send(ctx context.Context, group []*queue.Lease) {
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
	for read := m.read(group); len(read) > 0; {
		var same, others []held
		for _, h := range read {
			if h.To == read[0].To {
				same = append(same, h)
			} else {
				others = append(others, h)
			}
		}
		m.sendTo(notifier, console, same)
		read = others
	}
}

// held is a notice and its lease.
type held struct {
	Notice
	lease *queue.Lease
}

// read parses the notices of a group.
func (m *mailbox) read(group []*queue.Lease) []held {
	read := make([]held, 0, len(group))
	for _, l := range group {
		h := held{lease: l}
		if err := json.Unmarshal(l.Event.Body, &h.Notice); err != nil {
			m.sender.o.Logger.Error("a notice cannot be read", "event", l.Event.ID.String(), "error", err)
			m.logSettled(l.Dead(queue.Attempt{At: time.Now().UTC(), Error: "it cannot be read", ErrorClass: "mail"}))
			continue
		}
		read = append(read, h)
	}
	return read
}

// sendTo sends one message with notices that have the same To, and settles their leases.
func (m *mailbox) sendTo(notifier Notifier, console string, all []held) {
	o := m.sender.o
	group, notices := m.choose(notifier, all)
	if len(notices) == 0 {
		return
	}
	for i := range notices {
		n := &notices[i]
		if name, same := o.Name(*n); same {
			n.Webhook, n.Console = name, console
		}
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
		if m.number != operational {
			o.Sent(n, outcome, err)
		}
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

// choose returns the notices to send now, with their leases: at most the last one of each
// webhook. Notices that a later change has replaced are settled unsent. A webhook that
// fails and recovers over and over is reported once within dampWithin, with its state at
// that time.
func (m *mailbox) choose(notifier Notifier, all []held) ([]*queue.Lease, []Notice) {
	now := time.Now()
	holder, mayHold := notifier.(Holder)
	last := make(map[subject]held)
	for _, h := range all {
		about := h.subject()
		before, again := last[about]
		switch {
		case m.sender.o.Overtaken(h.Notice):
			m.skip(h)
		case !again:
			last[about] = h
		case before.At.After(h.At):
			m.skip(h)
		default:
			m.skip(before)
			last[about] = h
		}
	}
	var chosen []*queue.Lease
	var sent []Notice
	for _, h := range all {
		if last[h.subject()].lease != h.lease {
			continue
		}
		if mayHold && holder.Holds(h.Notice) {
			m.keep([]*queue.Lease{h.lease})
			continue
		}
		about := m.damping.of(h.Notice)
		if until := about.hold(h.Notice, now); until.After(now) {
			_ = h.lease.Defer(until)
			continue
		}
		h.Changes = about.changes
		chosen, sent = append(chosen, h.lease), append(sent, h.Notice)
	}
	return chosen, sent
}

// skip settles a notice that a later one has replaced.
func (m *mailbox) skip(h held) {
	m.damping.skipped(h.Notice)
	m.logSettled(h.lease.Ack(queue.Attempt{At: time.Now().UTC()}))
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
