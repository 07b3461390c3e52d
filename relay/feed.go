package relay

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/userhero/relay/queue"
)

// The kinds of happenings.
const (
	// HappenedAccepted: an event and its deliveries are on disk. Event, Type and
	// Feedback say which; Deliveries how many webhooks get it.
	HappenedAccepted = "accepted"
	// HappenedAttempt: an attempt ended. Delivery, Webhook, Number, Status, Class,
	// Error and Duration say of what and how, State what the delivery is now, and
	// Next when it is tried again.
	HappenedAttempt = "attempt"
	// HappenedState: the state of a webhook is another. Webhook, From, To, Reason.
	HappenedState = "state"
	// HappenedActivity: the activity log has another line. What, Who, Webhook,
	// Detail.
	HappenedActivity = "activity"
)

// Happening is one thing that happened, as subscriptions get it. It has no
// payload and no secret. Which fields are set depends on Kind.
type Happening struct {
	// ID counts what was published since the relay was made, from 1; it grows only while a
	// subscription is open.
	ID   uint64
	Kind string
	At   time.Time

	Event      queue.EventID
	Type       string
	Feedback   queue.FeedbackID
	Deliveries int

	Delivery queue.DeliveryID
	Webhook  string // by name
	Number   int    // of the attempt, from 1, over all ladders
	Status   int    // 0 if no answer came
	Class    string // "ok", or what went wrong
	Error    string
	Duration time.Duration
	State    queue.State
	Next     time.Time

	From, To, Reason string

	What, Who, Detail string
}

// maxUntaken is how many happenings a subscription keeps for one who does not
// take them. With fewer, a page would lose some at each burst; each is some
// 400 bytes.
const maxUntaken = 512

// feed publishes what happens to open subscriptions. It keeps nothing for others: what
// they missed is in the store.
type feed struct {
	listened atomic.Bool // any subscription is open; what publishers look at first

	mu   sync.Mutex // guards everything below, and what subscriptions hold
	last uint64
	open map[*Subscription]struct{}
}

// Subscription gets what happens from its beginning on, in one order. It holds
// a bounded number of happenings; if Take is called too seldom the oldest are lost, and
// Take returns how many.
type Subscription struct {
	feed  *feed
	done  <-chan struct{}
	ready chan struct{}
	kept  []Happening // guarded by feed.mu, as all below
	lost  int
}

// Ready can be received from when Take has something to return.
func (s *Subscription) Ready() <-chan struct{} { return s.ready }

// Done is closed when the relay stops: little will happen after that.
func (s *Subscription) Done() <-chan struct{} { return s.done }

// Take returns what has happened since it was last called, oldest first, and
// how many happenings before those were lost. It does not wait.
func (s *Subscription) Take() (happened []Happening, lost int) {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	happened, lost = s.kept, s.lost
	s.kept, s.lost = nil, 0
	return happened, lost
}

// Close ends the subscription; twice is fine.
func (s *Subscription) Close() {
	f := s.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, s)
	f.listened.Store(len(f.open) > 0)
}

// hasListeners reports whether a subscription is open. Publishers ask before they make a
// Happening, so that without subscriptions they pay for one atomic load.
func (f *feed) hasListeners() bool { return f.listened.Load() }

// publish hands a happening to every subscription. It never waits for them.
func (f *feed) publish(h Happening) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last++
	h.ID, h.At = f.last, time.Now().UTC()
	for s := range f.open {
		if len(s.kept) == maxUntaken {
			// Half of it goes at once, lest a burst move everything for each.
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

// Observer hears what happens, for metrics. Its methods are called from any
// goroutine and must return at once.
type Observer interface {
	// Accepted: an event of this type is on disk.
	Accepted(eventType string)
	// Rejected: an event was refused; reason is one of a fixed list.
	Rejected(reason string)
	// Attempted: an attempt ended; outcome is "ok" or the class of the failure,
	// and span is where it is traced.
	Attempted(webhook, outcome string, took time.Duration, span queue.TraceContext)
	// Delivered: an event reached its webhook, this long after it was accepted in
	// the span creation.
	Delivered(webhook string, endToEnd time.Duration, creation queue.TraceContext)
	// StateChanged: a webhook's state is another.
	StateChanged(webhook, from, to string)
	// FilterFailed: the webhook's filter could not judge an event, which is not
	// sent.
	FilterFailed(webhook string)
	// Deleted: there is no such webhook any more, and nothing more will be said
	// of it.
	Deleted(webhook string)
	// Mailed: a notice of this kind was sent; outcome is "ok", "retry" or
	// "failed".
	Mailed(kind, outcome string)
}

// nobody is the observer if none is given.
type nobody struct{}

func (nobody) Accepted(string) {}

func (nobody) Rejected(string) {}

func (nobody) Attempted(string, string, time.Duration, queue.TraceContext) {}

func (nobody) Delivered(string, time.Duration, queue.TraceContext) {}

func (nobody) StateChanged(string, string, string) {}

func (nobody) FilterFailed(string) {}

func (nobody) Deleted(string) {}

func (nobody) Mailed(string, string) {}
