// Package feed publishes what happens in a relay to people who watch it, and to other
// relays where somebody watches.
//
// It promises that publishing never waits for a subscription, that it costs one atomic
// load if nobody listens, and that a subscription which is too slow loses the oldest
// happenings and learns how many. It stores nothing. It does not know the relay, how
// messages reach other relays, or who may see what: its caller passes functions for
// these. A test follows a slow and a quick subscription; the relay's tests check which
// happenings are published.
package feed

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/userhero/relay/queue"
)

// Kinds of happenings.
const (
	// Accepted: an event and its deliveries are on disk. It sets Event, Type,
	// Feedback, and Deliveries, the number of webhooks that get the event.
	Accepted = "accepted"
	// Attempt: an attempt ended. It sets Delivery, Webhook, Number, Status,
	// Class, Error and Duration. State is the delivery's new state, and Next is when it
	// is tried again.
	Attempt = "attempt"
	// State: a webhook's state changed. It sets Webhook, From, To and Reason.
	State = "state"
	// Activity: an entry was added to the activity log. It sets What, Who,
	// Webhook and Detail.
	Activity = "activity"
)

// Happening is one thing that happened. It holds no payload and no secret. Kind
// determines which fields are set.
type Happening struct {
	// ID is the number of the happening in its subscription, from 1.
	ID   uint64
	Kind string
	At   time.Time

	Event      queue.EventID
	Type       string
	Feedback   queue.FeedbackID
	Deliveries int
	// Takers are the projects of each webhook that gets the event, and Projects those of
	// Webhook, as WebhookStatus has them.
	Takers   [][]string
	Projects []string

	Delivery queue.DeliveryID
	Webhook  string // by name
	Number   int    // of the attempt, from 1, across requeues
	Status   int    // 0 if there was no response
	Class    string // "ok", or the class of the error
	Error    string
	Duration time.Duration
	State    queue.State
	Next     time.Time

	From, To, Reason string

	What, Who, Detail string
}

// maxUntaken is how many happenings a subscription buffers, at about 400 bytes each.
// With a smaller buffer, a page would lose some at each burst.
const maxUntaken = 512

// Feed publishes happenings to open subscriptions. It keeps none for later: the store
// has the records.
type Feed struct {
	// listened is set if there are subscriptions, here or on another relay. Publishers check
	// it first.
	listened atomic.Bool
	// Tell, if it is not nil, sends other relays what has happened on this one.
	Tell func(Happening)

	mu   sync.Mutex // guards everything below, and the buffers of subscriptions
	open map[*Subscription]struct{}
	// until is the time until which another relay counts as listening.
	until time.Time
}

// Subscription receives what happens after it was opened, in order. Its buffer is
// bounded: if Take is called too seldom, the oldest happenings are lost, and Take
// returns how many.
type Subscription struct {
	feed  *Feed
	see   func(Happening) (Happening, bool) // nil: all happenings, unchanged
	done  <-chan struct{}
	ready chan struct{}
	last  uint64 // guarded by Feed.mu, like everything below
	kept  []Happening
	lost  int
}

// Subscribe opens a subscription, whose Done returns done. If see is not nil, the
// subscription has only the happenings for which it reports true, as it returns them. It
// is called under a lock: it must be quick, and must not call the feed. Subscribe
// reports whether the subscription is the only one on this relay.
func (f *Feed) Subscribe(see func(Happening) (Happening, bool), done <-chan struct{}) (s *Subscription, only bool) {
	s = &Subscription{feed: f, see: see, done: done, ready: make(chan struct{}, 1)}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open == nil {
		f.open = make(map[*Subscription]struct{})
	}
	f.open[s] = struct{}{}
	f.listened.Store(true)
	return s, len(f.open) == 1
}

// Ready returns a channel that receives a value when Take has something to return.
func (s *Subscription) Ready() <-chan struct{} { return s.ready }

// Done returns a channel that is closed when the relay stops.
func (s *Subscription) Done() <-chan struct{} { return s.done }

// Take returns the happenings since the last call, oldest first, and the number lost
// before them. It does not wait.
func (s *Subscription) Take() (happened []Happening, lost int) {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	happened, lost = s.kept, s.lost
	s.kept, s.lost = nil, 0
	return happened, lost
}

// Close ends the subscription. It may be called twice.
func (s *Subscription) Close() {
	f := s.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, s)
	f.listened.Store(len(f.open) > 0 || !f.until.IsZero())
}

// HasSubscriptions reports whether anybody listens on this relay.
func (f *Feed) HasSubscriptions() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.open) > 0
}

// ListenedElsewhere notes that another relay listens, until a time.
func (f *Feed) ListenedElsewhere(until time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.until = until
	f.listened.Store(true)
}

// Expire notes that no other relay listens any more, if that time has passed.
func (f *Feed) Expire(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.until.IsZero() && now.After(f.until) {
		f.until = time.Time{}
		f.listened.Store(len(f.open) > 0)
	}
}

// HasListeners reports whether there are subscriptions, here or on another relay. Publishers
// call it before they build a Happening, so that without subscriptions they pay only for
// one atomic load.
func (f *Feed) HasListeners() bool { return f.listened.Load() }

// Publish gives a happening to every subscription, also on other relays. It never waits
// for them.
func (f *Feed) Publish(h Happening) {
	h.At = time.Now().UTC()
	f.PublishHere(h)
	if f.Tell == nil {
		return
	}
	f.mu.Lock()
	elsewhere := !f.until.IsZero()
	f.mu.Unlock()
	if elsewhere {
		f.Tell(h)
	}
}

// PublishHere gives a happening to the subscriptions of this relay.
func (f *Feed) PublishHere(h Happening) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.open {
		h := h
		if s.see != nil {
			var seen bool
			if h, seen = s.see(h); !seen {
				continue
			}
		}
		s.last++
		h.ID = s.last
		if len(s.kept) == maxUntaken {
			// Drop half of the buffer at once, so that a burst does not move all
			// entries for each happening.
			const gone = maxUntaken / 2
			s.kept = append(s.kept[:0], s.kept[gone:]...)
			s.lost += gone
		}
		s.kept = append(s.kept, h)
		select {
		case s.ready <- struct{}{}:
		default:
		}
	}
}
