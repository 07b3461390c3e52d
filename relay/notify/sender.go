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

// NoticeType is the type of the events that carry notices; the dot keeps them out
// of every list.
const NoticeType = ".notice"

const (
	// mailboxName is the name of the record that is the first notifier's webhook; no
	// user can take it. Those of other notifiers have their number behind it.
	mailboxName = ".mailbox"
	// defaultGroupWithin is how long notices wait for others, to go out as one
	// message.
	defaultGroupWithin = time.Minute
	// storeTime bounds what posting asks of the store.
	storeTime = 10 * time.Second
)

// IsMailbox reports whether a webhook's name in the store is that of a mailbox.
func IsMailbox(name string) bool { return strings.HasPrefix(name, mailboxName) }

// Options are what a sender works with. All are required.
type Options struct {
	Queue  queue.Queue
	Logger *slog.Logger
	// Lanes ends taking notices from the queue, Attempts ends messages under way.
	Lanes, Attempts context.Context //nolint:containedctx // both live as long as the sender
	// Overtaken reports whether the webhook has a newer notice, which has been posted
	// or will be.
	Overtaken func(Notice) bool
	// Sent is called for each notice of a message. Outcome is "ok", "retry" or
	// "failed"; err is why it was not sent.
	Sent func(n Notice, outcome string, err error)
}

// Sender is the durable way from a change of state to messages. Notices are events
// in the queue, and each notifier has a lane of its own, so that what one refuses
// keeps nothing from another. All methods may be called from any goroutine.
type Sender struct {
	o       Options
	running sync.WaitGroup // mailboxes' goroutines

	mu        sync.RWMutex // guards everything below; no other lock is taken under it
	config    Config       // in force
	mailboxes []*mailbox   // by the number of their notifier
}

// New makes a sender. It sends nothing before Open and Use.
func New(o Options) *Sender { return &Sender{o: o} }

// Use puts settings in force. Open made mailboxes for their notifiers.
func (s *Sender) Use(c Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.config = c
}

// Open finds or makes the mailboxes of n notifiers, and begins to send what is in
// them. One goroutine calls it at a time, and none after the lanes' end is waited
// for.
func (s *Sender) Open(ctx context.Context, n int) error {
	s.mu.RLock()
	opened := len(s.mailboxes)
	s.mu.RUnlock()
	if opened >= n || s.o.Lanes.Err() != nil {
		return nil //nolint:nilerr // after the end nothing is opened, which is no failure
	}
	stored, err := s.o.Queue.Webhooks(ctx)
	if err != nil {
		return fmt.Errorf("looking for the mailbox: %w", err)
	}
	for number := opened; number < n; number++ {
		name := mailboxName
		if number > 0 {
			name += "." + strconv.Itoa(number)
		}
		i := slices.IndexFunc(stored, func(w queue.Webhook) bool { return w.Name == name })
		if i < 0 {
			w, err := s.o.Queue.PutWebhook(ctx, queue.Webhook{Name: name, Data: []byte("{}")})
			if err != nil {
				return fmt.Errorf("making the mailbox: %w", err)
			}
			stored, i = append(stored, w), len(stored)
		}
		m := &mailbox{sender: s, id: stored[i].ID, number: number, damping: make(damping)}
		s.mu.Lock()
		s.mailboxes = append(s.mailboxes, m)
		s.mu.Unlock()
		s.running.Go(m.run)
	}
	return nil
}

// Wait waits until the mailboxes' goroutines have ended, after the lanes have.
func (s *Sender) Wait() { s.running.Wait() }

// Post puts a notice into the mailbox of each notifier, once: a second notice of
// the same thread and kind is not posted. A failure is logged.
func (s *Sender) Post(n Notice) {
	s.mu.RLock()
	var to []queue.WebhookID
	for _, m := range s.mailboxes {
		if m.number < len(s.config.Notifiers) {
			to = append(to, m.id)
		}
	}
	s.mu.RUnlock()
	if len(to) == 0 {
		return
	}
	body, err := json.Marshal(n)
	if err != nil {
		panic(err) // strings and times of this century always marshal
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeTime)
	defer cancel()
	_, err = s.o.Queue.Enqueue(ctx, queue.Entry{
		Type: NoticeType, Created: time.Now(), Body: body, Webhooks: to,
		Key: queue.Key{Name: "notice:" + n.Thread + ":" + n.Kind},
	})
	if err != nil && !errors.Is(err, queue.ErrClosed) {
		s.o.Logger.Error("nobody will be told of a webhook's state", "webhook", n.Webhook, "kind", n.Kind, "error", err)
	}
}

// MayWait is how long a delivery to this webhook of the store waits on purpose: a
// notice waits for others that go out with it. It is 0 for other webhooks.
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

// groupWithin is how long notices wait for others.
func (s *Sender) groupWithin() time.Duration {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.groupWithinLocked()
}

// notifier is the one of this number, with the address of the console; nil if it is
// not configured.
func (s *Sender) notifier(number int) (n Notifier, console string) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if number < len(s.config.Notifiers) {
		n = s.config.Notifiers[number]
	}
	return n, s.config.ConsoleURL
}
