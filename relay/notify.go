package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/deliver"
	"github.com/userhero/relay/relay/redact"
)

// Notifier tells people about webhooks. An error that has Temporary() true is
// tried again on the notices' own ladder; others are final.
type Notifier interface {
	// Notify sends one message about all notices, of one webhook each.
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
	URL     string    `json:"url"` // without its secrets, see package redact
	At      time.Time `json:"at"`
	// Since is when it began to fail.
	Since  time.Time `json:"since,omitzero"`
	Reason string    `json:"reason,omitempty"`
	// Thread is the same for what belongs to one time of failing.
	Thread string `json:"thread"`
	// Changes counts the changes of state that nobody was told of, because others
	// followed soon. It is not stored.
	Changes int `json:"-"`
	// Console is the address of the console; empty if it is not configured. It is
	// not stored.
	Console string `json:"-"`
}

const (
	// noticeType is the type of the events that carry notices; the dot keeps them
	// out of every list.
	noticeType = ".notice"
	// mailbox is the name of the record that is the first notifier's webhook; no
	// user can take it. Those of other notifiers have their number behind it.
	mailbox = ".mailbox"
	// defaultGroupWithin is how long notices wait for others, to go out as one
	// message.
	defaultGroupWithin = 60 * time.Second
	maxGroup           = 100
	// mailTimeout bounds one call of a notifier: a mail server may take 10 minutes
	// to accept a mail (RFC 5321 §4.5.3.2.6).
	mailTimeout = 15 * time.Minute
	// dampWithin is how far apart messages about a webhook are that fails and
	// recovers over and over.
	dampWithin = time.Hour
	// maxNoticeAge is when a notice is given up that nobody could be told of,
	// because no notifier was configured.
	maxNoticeAge = 48 * time.Hour
)

// mail is the durable way from a change of state to one notifier's messages:
// notices are events in the queue like any other, with a lane of their own. Each
// notifier has one, so that what one refuses keeps nothing from another.
type mail struct {
	relay *Relay
	id    queue.WebhookID
	// number is the notifier's place in the configuration.
	number int
	// told is by webhook; only run uses it. A restart forgets it.
	told map[string]*toldOf
}

// toldOf is what damping knows of a webhook.
type toldOf struct {
	at      time.Time // of the last message about it
	thread  string    // of that
	seen    time.Time // the time of the last notice
	damped  bool      // it fails and recovers over and over
	changes int       // that were not told since
}

// mailboxName is the name of a notifier's mailbox.
func mailboxName(number int) string {
	if number == 0 {
		return mailbox
	}
	return mailbox + "." + strconv.Itoa(number)
}

// openMail finds or makes the mailboxes of n notifiers, and begins to send what
// is in them; r.attachMu is held.
func (r *Relay) openMail(ctx context.Context, n int) error {
	r.mu.RLock()
	opened, stopped := len(r.mails), r.stopped
	r.mu.RUnlock()
	if opened >= n || stopped {
		return nil
	}
	stored, err := r.queue.Webhooks(ctx)
	if err != nil {
		return fmt.Errorf("looking for the mailbox: %w", err)
	}
	for number := opened; number < n; number++ {
		name := mailboxName(number)
		i := slices.IndexFunc(stored, func(s queue.Webhook) bool { return s.Name == name })
		if i < 0 {
			s, err := r.queue.PutWebhook(ctx, queue.Webhook{Name: name, Data: []byte("{}")})
			if err != nil {
				return fmt.Errorf("making the mailbox: %w", err)
			}
			stored, i = append(stored, s), len(stored)
		}
		m := &mail{relay: r, id: stored[i].ID, number: number, told: make(map[string]*toldOf)}
		r.mu.Lock()
		r.mails = append(r.mails, m)
		r.mu.Unlock()
		r.running.Go(m.run)
	}
	return nil
}

// tell posts a notice into the mailbox of each notifier, once: its key is that of
// the change.
func (r *Relay) tell(n Notice) {
	r.mu.RLock()
	var mailboxes []queue.WebhookID
	for _, m := range r.mails {
		if r.notifierLocked(m.number) != nil {
			mailboxes = append(mailboxes, m.id)
		}
	}
	r.mu.RUnlock()
	if len(mailboxes) == 0 {
		return
	}
	body, err := json.Marshal(n)
	if err != nil {
		panic(err) // strings and times of this century always marshal
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeTime)
	defer cancel()
	_, err = r.queue.Enqueue(ctx, queue.Entry{
		Type: noticeType, Created: time.Now(), Body: body, Webhooks: mailboxes,
		Key: queue.Key{Name: "notice:" + n.Thread + ":" + n.Kind},
	})
	if err != nil && !errors.Is(err, queue.ErrClosed) {
		r.log.Error("nobody will be told of a webhook's state", "webhook", n.Webhook, "kind", n.Kind, "error", err)
	}
}

// notifierLocked is a notifier of the generation in force, or nil.
func (r *Relay) notifierLocked(number int) Notifier {
	if r.current == nil || number >= len(r.current.config.Notifiers) {
		return nil
	}
	return r.current.config.Notifiers[number]
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
	r.mu.RLock()
	notifier, console := r.notifierLocked(m.number), ""
	if r.current != nil {
		console = r.current.config.ConsoleURL
	}
	r.mu.RUnlock()
	if ctx.Err() != nil {
		for _, l := range group {
			_ = l.Defer(time.Now()) // lost with the lane otherwise, which is the same
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
		m.remember(notices)
	case temporaryError(err):
		outcome, a.Error, a.ErrorClass = "retry", redact.Error(err), "mail"
	default:
		outcome, a.Error, a.ErrorClass = "failed", redact.Error(err), "mail"
	}
	for _, l := range group {
		due, more := deliver.NextDue(DefaultLadder(), l.Delivery.Rung, time.Now(), 0)
		var settled error
		switch {
		case err == nil:
			settled = l.Ack(a)
		case outcome == "retry" && more:
			settled = l.Retry(due, a)
		default:
			settled = l.Dead(a)
		}
		m.settled(settled)
	}
	for _, n := range notices {
		r.observer.Mailed(n.Kind, outcome)
		detail := n.Kind
		if err != nil {
			detail += ": " + outcome + ": " + redact.Error(err)
		}
		r.note(activity{What: "notice sent", Who: "relay", Webhook: n.Webhook, Detail: detail})
	}
	if err != nil {
		r.log.Error("a notice was not sent", "notices", len(notices), "outcome", outcome, "error", redact.Error(err))
	}
}

// keep gives the leases of a mailbox back while its notifier is not configured,
// and ends those that are too old to be of use when it comes back.
func (m *mail) keep(group []*queue.Lease) {
	now := time.Now()
	for _, l := range group {
		if now.Sub(l.Event.Created) < maxNoticeAge {
			_ = l.Defer(now.Add(defaultGroupWithin))
			continue
		}
		m.settled(l.Dead(queue.Attempt{At: now.UTC(), Error: "no notifier is configured", ErrorClass: "mail"}))
	}
}

// choose returns the notices of a group that are to be sent now, with their
// leases. Of each webhook that is at most one, its last: what a later change has
// overtaken is settled unsent. A webhook that fails and recovers over and over
// is told of once within dampWithin, with the state that it has then.
func (m *mail) choose(group []*queue.Lease) ([]*queue.Lease, []Notice) {
	now := time.Now()
	last := make(map[string]*queue.Lease)
	notices := make(map[*queue.Lease]Notice)
	for _, l := range group {
		var n Notice
		if err := json.Unmarshal(l.Event.Body, &n); err != nil {
			m.relay.log.Error("a notice cannot be read", "event", l.Event.ID.String(), "error", err)
			m.settled(l.Dead(queue.Attempt{At: now.UTC(), Error: "it cannot be read", ErrorClass: "mail"}))
			continue
		}
		notices[l] = n
		before := last[n.Webhook]
		switch {
		case m.overtaken(n):
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
	var told []Notice
	for _, l := range group {
		n, ok := notices[l]
		if !ok || last[n.Webhook] != l {
			continue
		}
		if until := m.of(n.Webhook).hold(n, now); until.After(now) {
			_ = l.Defer(until)
			continue
		}
		n.Changes = m.of(n.Webhook).changes
		chosen, told = append(chosen, l), append(told, n)
	}
	return chosen, told
}

// overtaken reports whether the webhook has a newer notice, which has been posted
// or will be.
func (m *mail) overtaken(n Notice) bool {
	w, err := m.relay.find(n.Webhook)
	if err != nil {
		return false // it was deleted or renamed
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.record.Told.At.After(n.At)
}

// skip settles a notice that a later one has overtaken.
func (m *mail) skip(l *queue.Lease, n Notice) {
	t := m.of(n.Webhook)
	t.changes++
	if n.At.After(t.seen) {
		t.seen = n.At
	}
	m.settled(l.Ack(queue.Attempt{At: time.Now().UTC()}))
}

func (m *mail) of(webhook string) *toldOf {
	t := m.told[webhook]
	if t == nil {
		t = new(toldOf)
		m.told[webhook] = t
	}
	return t
}

// remember notes what a message has said, and forgets webhooks that have been
// quiet for long.
func (m *mail) remember(notices []Notice) {
	now := time.Now()
	for webhook, t := range m.told {
		if now.Sub(t.at) > 2*dampWithin && now.Sub(t.seen) > 2*dampWithin {
			delete(m.told, webhook)
		}
	}
	for _, n := range notices {
		t := m.of(n.Webhook)
		t.at, t.thread, t.changes = now, n.Thread, 0
	}
}

// hold notes that a notice has come and returns until when it waits; a time that
// has passed means that it does not wait.
// Notices of one time of failing do not wait for each other: a recovery is told
// at once. Another time of failing within dampWithin of the last message is.
func (t *toldOf) hold(n Notice, now time.Time) time.Time {
	if n.At.Sub(t.seen) > dampWithin {
		t.damped = false
	}
	t.seen = n.At
	if t.at.IsZero() || n.Kind == NoticeDisabled || !t.damped && n.Thread == t.thread {
		return now
	}
	until := t.at.Add(dampWithin)
	if until.After(now) {
		t.damped = true
	}
	return until
}

func (m *mail) settled(err error) {
	if err != nil {
		m.relay.log.Error("a notice was not settled; it will be sent again", "error", err)
	}
}

func temporaryError(err error) bool {
	var t interface{ Temporary() bool }
	return errors.As(err, &t) && t.Temporary()
}

// checkConsoleURL reports what is wrong with the address that mails link to.
func checkConsoleURL(raw string) error {
	if raw == "" {
		return nil
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return errors.New("console_url: write its whole address, such as https://feedback.example.com/relay")
	case u.User != nil:
		return errors.New("console_url: leave user and password out of it; it is sent in mails")
	case u.RawQuery != "" || u.Fragment != "":
		return errors.New("console_url: leave out what follows ? or #; the addresses of pages are made from it")
	}
	return nil
}
