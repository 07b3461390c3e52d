package relay

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/userhero/relay/queue"
)

// Kinds of happenings.
const (
	// HappenedAccepted: an event and its deliveries are on disk. It sets Event, Type,
	// Feedback, and Deliveries, the number of webhooks that get the event.
	HappenedAccepted = "accepted"
	// HappenedAttempt: an attempt ended. It sets Delivery, Webhook, Number, Status,
	// Class, Error and Duration. State is the delivery's new state, and Next is when it
	// is tried again.
	HappenedAttempt = "attempt"
	// HappenedState: a webhook's state changed. It sets Webhook, From, To and Reason.
	HappenedState = "state"
	// HappenedActivity: an entry was added to the activity log. It sets What, Who,
	// Webhook and Detail.
	HappenedActivity = "activity"
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

// feed publishes happenings to open subscriptions. It keeps none for later: the store
// has the records.
type feed struct {
	// listened is set if there are subscriptions, here or on another relay. Publishers check
	// it first.
	listened atomic.Bool
	// tell, if it is not nil, sends other relays what has happened on this one.
	tell func(Happening)

	mu   sync.Mutex // guards everything below, and the buffers of subscriptions
	open map[*Subscription]struct{}
	// until is the time until which another relay counts as listening.
	until time.Time
}

// Subscription receives what happens after it was opened, in order. Its buffer is
// bounded: if Take is called too seldom, the oldest happenings are lost, and Take
// returns how many.
type Subscription struct {
	feed  *feed
	see   func(Happening) (Happening, bool) // nil: all happenings, unchanged
	done  <-chan struct{}
	ready chan struct{}
	last  uint64 // guarded by feed.mu, like everything below
	kept  []Happening
	lost  int
}

// subscribe opens a subscription, which ends when done is closed. It reports whether it
// is the only one on this relay.
func (f *feed) subscribe(see func(Happening) (Happening, bool), done <-chan struct{}) (s *Subscription, only bool) {
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

func (f *feed) hasSubscriptions() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.open) > 0
}

// listenedElsewhere notes that another relay listens, until a time.
func (f *feed) listenedElsewhere(until time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.until = until
	f.listened.Store(true)
}

// expire notes that no other relay listens any more, if that time has passed.
func (f *feed) expire(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.until.IsZero() && now.After(f.until) {
		f.until = time.Time{}
		f.listened.Store(len(f.open) > 0)
	}
}

// hasListeners reports whether there are subscriptions, here or on another relay. Publishers
// call it before they build a Happening, so that without subscriptions they pay only for
// one atomic load.
func (f *feed) hasListeners() bool { return f.listened.Load() }

// publish gives a happening to every subscription, also on other relays. It never waits
// for them.
func (f *feed) publish(h Happening) {
	h.At = time.Now().UTC()
	f.publishHere(h)
	if f.tell == nil {
		return
	}
	f.mu.Lock()
	elsewhere := !f.until.IsZero()
	f.mu.Unlock()
	if elsewhere {
		f.tell(h)
	}
}

// publishHere gives a happening to the subscriptions of this relay.
func (f *feed) publishHere(h Happening) {
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
