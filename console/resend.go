package console

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
)

const (
	// mostResent is the most deliveries of one resend.
	mostResent = 100_000
	// resendAhead is how many deliveries of a resend wait in the queue of one webhook.
	// The others stay as they are until it is their turn, so a resend can be stopped.
	resendAhead = 20
	// mostResends is how many resends are remembered at most, and mostRunning how many run.
	mostResends, mostRunning = 50, 8
	// resendPause is how long a resend waits if nothing happens.
	resendPause = 250 * time.Millisecond
)

// The states of a resend.
const (
	resendRuns    = "running"
	resendStopped = "stopped"
	resendEnded   = "done"
)

// resendStatus is how far a resend has come.
type resendStatus struct {
	ID, What, User string
	State          string
	Reason         string // why it ended early
	Began          time.Time
	Finding        bool  // it is still looking for deliveries
	All            int64 // deliveries found
	Sent           int64 // deliveries attempted by the resend
	Delivered      int64 // those of Sent that succeeded
	Queued         int64 // in the queue, not attempted yet
	Skipped        int64 // being sent or queued already, or gone
	Waits          []string
}

// Left returns how many deliveries are not queued yet.
func (s resendStatus) Left() int64 { return s.All - s.Sent - s.Queued - s.Skipped }

// resend sends deliveries again, a few at a time. Its goroutine ends with the last
// delivery, with stop, and with the relay.
type resend struct {
	pages
	stop context.CancelFunc

	mu     sync.Mutex // guards status
	status resendStatus
}

// resends are the resends of a console.
type resends struct {
	mu  sync.Mutex // guards all
	all map[string]*resend
}

var errTooManyResends = event.NewProblem(429, "Too many deliveries are being sent again already. Wait until one of these actions ends, or stop one.")

// start begins a resend of the deliveries that find returns, newest first. ctx has the
// values of the request and does not end with it.
func (s *resends) start(ctx context.Context, p pages, what, user string, find func(context.Context, func(queue.DeliveryID) bool) error) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	running := 0
	for _, r := range s.all {
		if r.now().State == resendRuns {
			running++
		}
	}
	if running >= mostRunning {
		return "", errTooManyResends
	}
	if s.all == nil {
		s.all = make(map[string]*resend)
	}
	if len(s.all) >= mostResends {
		oldest := slices.MinFunc(slices.Collect(maps.Values(s.all)), func(a, b *resend) int {
			a0, b0 := a.now(), b.now()
			return cmp.Or(-cmp.Compare(a0.State, b0.State), a0.Began.Compare(b0.Began)) // stopped and running ones stay longer
		})
		delete(s.all, oldest.now().ID)
	}
	ctx, stop := context.WithCancel(ctx)
	r := &resend{pages: p, stop: stop, status: resendStatus{
		ID: rand.Text(), What: what, User: user, State: resendRuns, Began: time.Now(), Finding: true,
	}}
	s.all[r.status.ID] = r
	go r.run(ctx, find)
	return r.status.ID, nil
}

func (s *resends) find(id string) *resend {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[id]
}

// running returns the resends that run, the newest first.
func (s *resends) running() (all []resendStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.all {
		if now := r.now(); now.State == resendRuns {
			all = append(all, now)
		}
	}
	slices.SortFunc(all, func(a, b resendStatus) int { return b.Began.Compare(a.Began) })
	return all
}

func (r *resend) now() resendStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

func (r *resend) note(change func(*resendStatus)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.status)
}

// resendLane holds the work of a resend for one webhook.
type resendLane struct {
	ids    []queue.DeliveryID       // oldest first
	ahead  map[queue.DeliveryID]int // in the queue, with the attempts that they had before
	queued map[string]int64         // requeued, by the webhook's name
}

func (r *resend) run(ctx context.Context, find func(context.Context, func(queue.DeliveryID) bool) error) {
	defer r.stop()
	happened := r.relay.Subscribe()
	defer happened.Close()
	lanes := make(map[queue.WebhookID]*resendLane)
	err := find(ctx, func(id queue.DeliveryID) bool {
		if lanes[id.Webhook] == nil {
			lanes[id.Webhook] = &resendLane{ahead: make(map[queue.DeliveryID]int), queued: make(map[string]int64)}
		}
		lanes[id.Webhook].ids = append(lanes[id.Webhook].ids, id)
		full := false
		r.note(func(s *resendStatus) {
			s.All++
			full = s.All >= mostResent
		})
		return !full
	})
	r.note(func(s *resendStatus) { s.Finding = false })
	for _, lane := range lanes {
		slices.Reverse(lane.ids)
	}
	pause := time.NewTicker(resendPause)
	defer pause.Stop()
	for err == nil {
		var left bool
		if left, err = r.turn(ctx, lanes); !left {
			break
		}
		select {
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-happened.Done():
			err = queue.ErrClosed
		case <-happened.Ready():
			happened.Take()
		case <-pause.C:
		}
	}
	r.note(func(s *resendStatus) {
		s.State, s.Waits = resendEnded, nil
		if err != nil {
			s.State = resendStopped
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			s.Reason = err.Error()
		}
	})
	for _, lane := range lanes {
		for name, n := range lane.queued {
			r.relay.NoteRequeued(name, n, r.status.User)
		}
	}
}

// turn counts the deliveries that were attempted, and queues the next ones. It reports
// whether some are left.
func (r *resend) turn(ctx context.Context, lanes map[queue.WebhookID]*resendLane) (left bool, err error) {
	byID := r.webhooksByID()
	var waits []string
	for id, lane := range lanes {
		if err := r.settled(ctx, lane); err != nil {
			return true, err
		}
		w, there := byID[id]
		room := resendAhead
		switch {
		case !there:
			r.skip(int64(len(lane.ids)))
			lane.ids = nil
		case w.State == relay.Disabled || w.Parked:
			room = 0
			waits = append(waits, w.Name+" is paused")
		case !w.HeldUntil.IsZero():
			room = 0
			waits = append(waits, w.Name+" asked for a pause")
		case w.State == relay.Failing || w.Probing:
			room = 1
			waits = append(waits, w.Name+" does not answer")
		}
		for len(lane.ids) > 0 && len(lane.ahead) < room {
			next := lane.ids[0]
			lane.ids = lane.ids[1:]
			if err := r.requeue(ctx, lane, next); err != nil {
				return true, err
			}
		}
		left = left || len(lane.ids)+len(lane.ahead) > 0
	}
	slices.Sort(waits)
	r.note(func(s *resendStatus) {
		s.Waits, s.Queued = waits, 0
		for _, lane := range lanes {
			s.Queued += int64(len(lane.ahead))
		}
	})
	return left, nil
}

func (r *resend) skip(n int64) { r.note(func(s *resendStatus) { s.Skipped += n }) }

// settled counts the deliveries that were attempted since they were queued.
func (r *resend) settled(ctx context.Context, lane *resendLane) error {
	for id, before := range lane.ahead {
		d, err := r.queue.Delivery(ctx, id)
		switch {
		case errors.Is(err, queue.ErrNotFound):
			r.skip(1)
		case err != nil:
			return err
		case d.Attempts == before && d.State.Waiting():
			continue
		default:
			r.note(func(s *resendStatus) {
				s.Sent++
				if d.State == queue.Delivered {
					s.Delivered++
				}
			})
		}
		delete(lane.ahead, id)
	}
	return nil
}

// requeue queues one delivery. It skips a delivery that is already due or being sent.
func (r *resend) requeue(ctx context.Context, lane *resendLane, id queue.DeliveryID) error {
	d, err := r.queue.Delivery(ctx, id)
	if err == nil && d.State == queue.Pending {
		r.skip(1)
		return nil
	}
	name := ""
	if err == nil {
		name, err = r.relay.Requeue(ctx, id)
	}
	switch {
	case errors.Is(err, queue.ErrNotFound), errors.Is(err, queue.ErrConflict):
		r.skip(1)
	case err != nil:
		return fmt.Errorf("sending %s again: %w", id, err)
	default:
		lane.ahead[id] = d.Attempts
		lane.queued[name]++
	}
	return nil
}
