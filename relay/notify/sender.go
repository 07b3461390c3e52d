package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/userhero/relay/queue"
)

// NoticeType is the event type of notices. The dot keeps them out of every list.
const NoticeType = ".notice"

const (
	// mailboxName is the name of the record for the first notifier's lane. It is not a
	// valid webhook name. Further notifiers append their number.
	mailboxName = ".mailbox"
	// operationalName is the name of the record for the lane of operational events.
	operationalName = mailboxName + ".operational"
	// operational is the number of that mailbox.
	operational = -1
	// defaultGroupWithin is how long notices are collected before they go out as one
	// message.
	defaultGroupWithin = time.Minute
	// storeTime bounds the calls to the store when a notice is posted.
	storeTime = 10 * time.Second
)

// IsMailbox reports whether a webhook's name in the store belongs to a mailbox.
func IsMailbox(name string) bool { return strings.HasPrefix(name, mailboxName) }

// Options are what a sender needs. All are required.
type Options struct {
	Queue  queue.Queue
	Logger *slog.Logger
	// When Lanes ends, no more notices are taken from the queue. When Attempts ends,
	// messages in flight are cancelled.
	Lanes, Attempts context.Context //nolint:containedctx // both live as long as the sender
	// Overtaken reports whether the webhook has a newer notice, posted or about to be
	// posted.
	Overtaken func(Notice) bool
	// Name returns the present name of the webhook that a notice is about. It returns false
	// if the webhook was deleted or may belong to somebody else.
	Name func(Notice) (name string, same bool)
	// Sent is called for each notice of a message. The outcome is "ok", "retry" or
	// "failed"; err is the reason it was not sent.
	Sent func(n Notice, outcome string, err error)
}

// Sender sends notices durably. Notices are events in the queue. Each notifier has its
// own lane, so a notifier that fails does not delay another. All methods may be called
// from any goroutine.
type Sender struct {
	o       Options
	running sync.WaitGroup // mailboxes' goroutines

	mu        sync.RWMutex // guards everything below; no other lock is taken while it is held
	config    Config       // the settings in force
	mailboxes []*mailbox   // index: the notifier's number
	events    *mailbox     // of operational events; nil: not opened
}

// New makes a sender. It sends nothing before Open and Use are called.
func New(o Options) *Sender { return &Sender{o: o} }

// Use puts settings in force. Open must have made the mailboxes for their notifiers.
func (s *Sender) Use(c Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.config = c
}

// Open finds or makes the mailboxes of n notifiers and starts to send their notices.
// Only one goroutine at a time may call it, and none after Wait is called.
func (s *Sender) Open(ctx context.Context, n int) error {
	s.mu.RLock()
	opened := len(s.mailboxes)
	s.mu.RUnlock()
	if opened >= n || s.o.Lanes.Err() != nil {
		return nil //nolint:nilerr // after the end nothing is opened, which is no failure
	}
	for number := opened; number < n; number++ {
		name := mailboxName
		if number > 0 {
			name += "." + strconv.Itoa(number)
		}
		m, err := s.open(ctx, name, number)
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.mailboxes = append(s.mailboxes, m)
		s.mu.Unlock()
	}
	return nil
}

// OpenOperational does the same for operational events. It is needed as soon as a webhook
// subscribes to them.
func (s *Sender) OpenOperational(ctx context.Context) error {
	s.mu.RLock()
	opened := s.events != nil
	s.mu.RUnlock()
	if opened || s.o.Lanes.Err() != nil {
		return nil
	}
	m, err := s.open(ctx, operationalName, operational)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = m
	return nil
}

// open finds or makes the record of a mailbox and starts the mailbox.
func (s *Sender) open(ctx context.Context, name string, number int) (*mailbox, error) {
	stored, err := s.o.Queue.Webhooks(ctx)
	if err != nil {
		return nil, fmt.Errorf("looking for the mailbox: %w", err)
	}
	i := slices.IndexFunc(stored, func(w queue.Webhook) bool { return w.Name == name })
	if i < 0 {
		w, err := s.o.Queue.PutWebhook(ctx, queue.Webhook{Name: name, Data: []byte("{}")})
		if errors.Is(err, queue.ErrConflict) {
			return s.open(ctx, name, number) // another relay has made it
		}
		if err != nil {
			return nil, fmt.Errorf("making the mailbox: %w", err)
		}
		stored, i = append(stored, w), len(stored)
	}
	m := &mailbox{sender: s, id: stored[i].ID, number: number, damping: make(damping)}
	s.running.Go(m.run)
	return m, nil
}

// Wait waits for the mailboxes' goroutines. They end after the Lanes context.
func (s *Sender) Wait() { s.running.Wait() }

// Post puts a notice into the mailbox of each notifier, of each owner, and of operational
// events. A notice with the same thread and kind is posted only once to each. Post logs
// its errors.
func (s *Sender) Post(n Notice) {
	key := n.Thread + ":" + n.Kind
	s.mu.RLock()
	var mailer *mailbox
	var reaches func(address string) bool
	var to []queue.WebhookID
	for _, m := range s.mailboxes {
		if m.number >= len(s.config.Notifiers) {
			continue
		}
		to = append(to, m.id)
		if can, ok := s.config.Notifiers[m.number].(Mailer); ok && mailer == nil {
			mailer, reaches = m, can.Reaches
		}
	}
	events := s.events
	s.mu.RUnlock()
	for i, id := range to {
		s.post(n, id, key+strings.Repeat("+", i))
	}
	if n.Operational && events != nil {
		s.post(n, events.id, key+":operational")
	}
	if mailer == nil {
		return
	}
	for _, n.To = range n.Owners {
		if !reaches(n.To) {
			s.post(n, mailer.id, key+":"+n.To)
		}
	}
}

// post puts a notice into one mailbox.
func (s *Sender) post(n Notice, to queue.WebhookID, key string) {
	body, err := json.Marshal(n)
	if err != nil {
		panic(err) // strings and times of this century always marshal
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeTime)
	defer cancel()
	_, err = s.o.Queue.Enqueue(ctx, queue.Entry{
		Type: NoticeType, Created: time.Now(), Body: body, Webhooks: []queue.WebhookID{to}, Key: queue.Key{Name: "notice:" + key},
	})
	if err != nil && !errors.Is(err, queue.ErrClosed) {
		s.o.Logger.Error("nobody will be told of a webhook's state", "webhook", n.Webhook, "kind", n.Kind, "error", err)
	}
}

// MayWait returns how long a delivery to this webhook may wait on purpose: notices are
// collected before they go out. It is 0 for webhooks that are no mailbox.
func (s *Sender) MayWait(id queue.WebhookID) time.Duration {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if slices.ContainsFunc(s.mailboxes, func(m *mailbox) bool { return m.id == id }) {
		return s.groupWithinLocked()
	}
	return 0
}

func (s *Sender) groupWithinLocked() time.Duration {
	if s.config.GroupWithin == 0 {
		return defaultGroupWithin
	}
	return s.config.GroupWithin
}

// groupWithin returns how long notices of a mailbox are collected. Operational events are
// about one webhook each, so nothing is collected for them.
func (s *Sender) groupWithin(number int) time.Duration {
	if number == operational {
		return 0
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.groupWithinLocked()
}

// notifier returns the notifier with this number and the console's address. It returns
// nil if the notifier is not configured.
func (s *Sender) notifier(number int) (n Notifier, console string) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	switch {
	case number == operational:
		n = s.config.Operational
	case number < len(s.config.Notifiers):
		n = s.config.Notifiers[number]
	}
	return n, s.config.ConsoleURL
}
