package simulation

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
)

// A breakage is a way to break one promise, between the relay's tap and the
// engine, and what the simulation must then say.
type breakage struct {
	name    string
	says    string // a regular expression
	breakIt func(q queue.Queue) queue.Queue
}

// once tells for each name whether it is the nth time.
type once struct {
	mu sync.Mutex
	n  int
}

func (o *once) every(n int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.n++
	return o.n%n == 0
}

var breakages = []breakage{
	{"an acknowledged event is dropped", "acknowledged|counts", func(q queue.Queue) queue.Queue { return &drops{Queue: q} }},
	{"a byte is changed", "other bytes", leases(func(l *queue.Lease) {
		body := append([]byte(nil), l.Event.Body...)
		body[len(body)/2] ^= 1
		l.Event.Body = body
	})},
	{"retries come a second early", "early", settlements(func(s *queue.Settlement) {
		if s.Kind == queue.SettleRetry {
			s.At = s.At.Add(-time.Second)
		}
	})},
	{"retries come a minute late", "is due since", settlements(func(s *queue.Settlement) {
		if s.Kind == queue.SettleRetry {
			s.At = s.At.Add(time.Minute)
		}
	})},
	{"a failed attempt is taken for a delivery", "is due since|counts|should be", settlements(func(s *queue.Settlement) {
		if s.Kind == queue.SettleRetry {
			s.Kind = queue.SettleAck
		}
	})},
	{"a delivery is handed out twice", "handed out twice", func(q queue.Queue) queue.Queue { return &twice{Queue: q} }},
	{"settlements are lost at a restart", "a crash may undo 0", nil},
	{"an attempt's number starts anew", "handed out on rung 0", leases(func(l *queue.Lease) { l.Delivery.Rung = 0 })},
	{"a delivery is kept back", "is due since|still waits", func(q queue.Queue) queue.Queue { return &keepsBack{Queue: q} }},
	{"now and then a webhook's record is not stored", "is active, and was|should be|takes nothing|does not fit the secret|with a ladder of", func(q queue.Queue) queue.Queue { return &forgetsPuts{Queue: q} }},
	{"an event that comes when a full disk has room again is dropped", "acknowledged|counts|other bytes|delivery|reading", func(q queue.Queue) queue.Queue { return &dropsAfterFull{Queue: q} }},
	{"an event goes to nobody", "counts|is due since|reading", func(q queue.Queue) queue.Queue { return &addressesNobody{Queue: q} }},
}

// TestControls breaks each promise, and sees the simulation say so within the
// seeds that every run of the tests lives through.
func TestControls(t *testing.T) {
	t.Parallel()
	for _, b := range breakages {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			says := regexp.MustCompile(b.says)
			for seed := uint64(1); seed <= 4; seed++ {
				o := options{seed: seed, steps: 400, engine: newInMemory, longest: 30 * time.Hour, broken: b.breakIt}
				if b.breakIt == nil {
					o.engine = newForgetful
				}
				if strings.Contains(b.name, "full disk") {
					o.engine, o.longest = newOnDisk, time.Minute
				}
				wrong, _ := simulate(t, o)
				if says.MatchString(firstLine(wrong)) {
					t.Logf("seed %d: %s", seed, firstLine(wrong))
					return
				}
				if wrong != "" {
					t.Fatalf("seed %d says %q, and should say %q", seed, firstLine(wrong), b.says)
				}
			}
			t.Error("nobody has noticed")
		})
	}
}

var lineEnd = regexp.MustCompile(`\n`)

func firstLine(s string) string { return lineEnd.Split(s, 2)[0] }

// leases changes what is handed out.
func leases(change func(*queue.Lease)) func(queue.Queue) queue.Queue {
	return func(q queue.Queue) queue.Queue { return &changesLanes{Queue: q, lease: change} }
}

// settlements changes what is settled.
func settlements(change func(*queue.Settlement)) func(queue.Queue) queue.Queue {
	return func(q queue.Queue) queue.Queue { return &changesLanes{Queue: q, settlement: change} }
}

type changesLanes struct {
	queue.Queue
	lease      func(*queue.Lease)
	settlement func(*queue.Settlement)
}

func (q *changesLanes) Lane(w queue.WebhookID, o queue.LaneOptions) (queue.Lane, error) {
	l, err := q.Queue.Lane(w, o)
	if err != nil {
		return nil, err
	}
	return &changesLane{l, q}, nil
}

type changesLane struct {
	queue.Lane
	q *changesLanes
}

func (l *changesLane) Next(ctx context.Context, most int) ([]*queue.Lease, error) {
	list, err := l.Lane.Next(ctx, most)
	for i, inner := range list {
		out := queue.NewLease(inner.Delivery, inner.Event, &changesSettler{l.q, inner})
		if l.q.lease != nil {
			l.q.lease(out)
		}
		list[i] = out
	}
	return list, err
}

type changesSettler struct {
	q     *changesLanes
	inner *queue.Lease
}

func (s *changesSettler) Lost(*queue.Lease) bool { return s.inner.Lost() }

func (s *changesSettler) Settle(_ *queue.Lease, what queue.Settlement) error {
	if s.q.settlement != nil {
		s.q.settlement(&what)
	}
	return settle(s.inner, what)
}

// drops acknowledges one event in twenty without storing it.
type drops struct {
	queue.Queue
	times once
}

func (q *drops) Enqueue(ctx context.Context, e queue.Entry) (queue.Receipt, error) {
	if q.times.every(20) {
		event := queue.Event{ID: queue.NewEventID(e.Created, 1, 1<<40), Type: e.Type, Feedback: e.Feedback, Created: e.Created, Body: e.Body}
		return queue.Receipt{Event: event}, nil
	}
	return q.Queue.Enqueue(ctx, e)
}

// dropsAfterFull acknowledges the first event after one that was refused for lack
// of room, without storing it.
type dropsAfterFull struct {
	queue.Queue
	full atomic.Bool
}

func (q *dropsAfterFull) Enqueue(ctx context.Context, e queue.Entry) (queue.Receipt, error) {
	if q.full.Swap(false) {
		if q.Health() == nil {
			return queue.Receipt{}, nil
		}
		q.full.Store(true)
	}
	r, err := q.Queue.Enqueue(ctx, e)
	if errors.Is(err, queue.ErrFull) {
		q.full.Store(true)
	}
	return r, err
}

// twice hands one lease in twenty out as two.
type twice struct {
	queue.Queue
	times once
}

func (q *twice) Lane(w queue.WebhookID, o queue.LaneOptions) (queue.Lane, error) {
	l, err := q.Queue.Lane(w, o)
	if err != nil {
		return nil, err
	}
	return &twiceLane{l, q}, nil
}

type twiceLane struct {
	queue.Lane
	q *twice
}

func (l *twiceLane) Next(ctx context.Context, most int) ([]*queue.Lease, error) {
	list, err := l.Lane.Next(ctx, most)
	if len(list) > 0 && len(list) < most && l.q.times.every(20) {
		list = append(list, list[0])
	}
	return list, err
}

// keepsBack gives one lease in a hundred to nobody.
type keepsBack struct {
	queue.Queue
	times once
}

func (q *keepsBack) Lane(w queue.WebhookID, o queue.LaneOptions) (queue.Lane, error) {
	l, err := q.Queue.Lane(w, o)
	if err != nil {
		return nil, err
	}
	return &keepsBackLane{l, q}, nil
}

type keepsBackLane struct {
	queue.Lane
	q *keepsBack
}

func (l *keepsBackLane) Next(ctx context.Context, most int) ([]*queue.Lease, error) {
	for {
		list, err := l.Lane.Next(ctx, most)
		if err != nil {
			return nil, err
		}
		if l.q.times.every(100) {
			list = list[1:]
		}
		if len(list) > 0 {
			return list, nil
		}
	}
}

// forgetsPuts says that webhooks' records are stored, and does not store every
// third.
type forgetsPuts struct {
	queue.Queue
	times once
}

func (q *forgetsPuts) PutWebhook(ctx context.Context, w queue.Webhook) (queue.Webhook, error) {
	if w.Revision > 0 && q.times.every(3) {
		w.Data = nil
		for _, s := range must(q.Webhooks(ctx)) {
			if s.ID == w.ID {
				w.Data = s.Data
			}
		}
	}
	return q.Queue.PutWebhook(ctx, w)
}

func must(list []queue.Webhook, err error) []queue.Webhook {
	if err != nil && !errors.Is(err, queue.ErrClosed) {
		panic(err)
	}
	return list
}

// addressesNobody stores one event in twenty without its deliveries.
type addressesNobody struct {
	queue.Queue
	times once
}

func (q *addressesNobody) Enqueue(ctx context.Context, e queue.Entry) (queue.Receipt, error) {
	if len(e.Webhooks) > 0 && q.times.every(20) {
		e.Webhooks = nil
	}
	return q.Queue.Enqueue(ctx, e)
}

// forgetful is an engine that loses at a restart what was committed before it.
type forgetful struct{ inMemory }

func newForgetful(t *testing.T) engine {
	return &forgetful{*newInMemory(t).(*inMemory)}
}

func (e *forgetful) sync() {} // says that it is done

// close takes the last settlements for not committed.
func (e *forgetful) close() error { return e.crash() }
