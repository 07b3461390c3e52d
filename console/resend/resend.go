// Package resend sends many deliveries again, a few at a time, and shows how far it has come.
//
// It promises that a resend does not need the request that began it, that it can be stopped at any time,
// that what it has not queued stays as it was, and that the activity log says what became of it, also after
// a restart. It does not know HTTP, nor how deliveries are found. The tests of package console check it.
package resend

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/userhero/relay/console/scope"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
)

const (
	// Most is the most deliveries that one call of send takes.
	Most = 100_000
	// ahead is how many deliveries of a resend wait in the queue of one webhook. The others
	// stay as they are until it is their turn, so a resend can be stopped.
	ahead = 20
	// mostKept is how many resends are kept in memory at most, and mostRunning how many run.
	mostKept, mostRunning = 50, 8
	// pause is how long a resend waits if nothing happens.
	pause = 250 * time.Millisecond
)

// The states of a resend.
const (
	Running = "running"
	Stopped = "stopped" // by a person, an error or the end of the relay
	Done    = "done"
	// Lost: it does not run in this relay, and the activity log does not know its end.
	Lost = "lost"
)

// Status is how far a resend has come. The activity log keeps it as JSON.
type Status struct {
	ID      string    `json:"id"`
	What    string    `json:"what"` // which deliveries, in words
	User    string    `json:"-"`
	Webhook string    `json:"webhook,omitempty"` // if all are of one
	Again   string    `json:"again,omitempty"`   // the address that counts what is left; empty if it is not kept
	State   string    `json:"state"`
	Reason  string    `json:"reason,omitempty"` // why it ended early
	Began   time.Time `json:"began"`

	Finding   bool  `json:"-"`                   // it is still looking for deliveries
	All       int64 `json:"all,omitempty"`       // deliveries found
	Sent      int64 `json:"sent,omitempty"`      // deliveries attempted by the resend
	Delivered int64 `json:"delivered,omitempty"` // those of Sent that succeeded
	Queued    int64 `json:"queued,omitempty"`    // in the queue, not attempted yet
	Skipped   int64 `json:"skipped,omitempty"`   // being sent or queued already, or gone

	// Waits are webhooks that take no deliveries, or only one at a time, in their order by name.
	Waits []relay.WebhookStatus `json:"-"`
}

// Left returns how many deliveries are not queued yet.
func (s Status) Left() int64 { return max(s.All-s.Sent-s.Queued-s.Skipped, 0) }

// Task is what a resend sends.
type Task struct {
	What, Webhook, Again string // as in Status
	// Find finds the deliveries. It calls found with their number, as often as it knows
	// more, then send with their ids, oldest first. It may call send several times, if they
	// are more than Most; send returns when they have been attempted.
	Find func(ctx context.Context, found func(int64), send func([]queue.DeliveryID) error) error
}

// resend is a task that runs. Its goroutine ends with the last delivery, with stop, and with
// the relay.
type resend struct {
	view   *scope.View
	reader *scope.Reader
	find   func(context.Context, func(int64), func([]queue.DeliveryID) error) error
	stop   context.CancelCauseFunc
	queued map[queue.WebhookID]*queued // of the goroutine

	mu     sync.Mutex // guards status
	status Status
}

// queued counts what was queued for one webhook. The activity log names the webhook as it was
// then: since then it may have been renamed or given to other projects, and another webhook
// may have its name.
type queued struct {
	webhook  string
	projects []string
	n        int64
}

// All are the resends of a relay, of all its consoles. The zero value has none.
type All struct {
	mu  sync.Mutex // guards all
	all map[string]*resend
}

var errTooMany = event.NewProblem(429, "Too many deliveries are being sent again already. Wait until one of these actions ends, or stop one.")

// Start begins a resend and returns its id. ctx has the values of a request, and does not end
// the resend.
func (a *All) Start(ctx context.Context, view *scope.View, user string, t Task) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	running := 0
	for _, r := range a.all {
		if r.now().State == Running {
			running++
		}
	}
	if running >= mostRunning {
		return "", errTooMany
	}
	if a.all == nil {
		a.all = make(map[string]*resend)
	}
	if len(a.all) >= mostKept {
		oldest := slices.MinFunc(slices.Collect(maps.Values(a.all)), func(a, b *resend) int {
			a0, b0 := a.now(), b.now()
			return cmp.Or(-cmp.Compare(a0.State, b0.State), a0.Began.Compare(b0.Began)) // stopped and running ones stay longer
		})
		delete(a.all, oldest.now().ID)
	}
	ctx, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	r := &resend{view: view, reader: view.Reader(), find: t.Find, stop: stop, queued: make(map[queue.WebhookID]*queued), status: Status{
		ID: rand.Text(), What: t.What, User: user, Webhook: t.Webhook, Again: t.Again, State: Running, Began: time.Now(), Finding: true,
	}}
	if !view.Go(func() { r.run(ctx) }) {
		return "", queue.ErrClosed
	}
	a.all[r.status.ID] = r
	return r.status.ID, nil
}

// lookBack bounds how many lines of the activity log are searched for a resend.
const lookBack = 20_000

// Find returns a resend as a console sees it: as it runs or has ended, or as the activity log
// has it. It returns queue.ErrNotFound if there is none.
func (a *All) Find(ctx context.Context, view *scope.View, id string) (Status, error) {
	a.mu.Lock()
	r := a.all[id]
	a.mu.Unlock()
	if r != nil && view.Covers(r.view) {
		return r.now(), nil
	}
	const page = 500
	for cursor, seen := "", 0; seen < lookBack; seen += page {
		found, err := view.Activities(ctx, page, cursor)
		if err != nil {
			return Status{}, err
		}
		for _, line := range found.Items {
			if s := statusIn(line); s.ID == id {
				return s, nil
			}
		}
		if cursor = found.Next; cursor == "" {
			break
		}
	}
	return Status{}, fmt.Errorf("resend %s: %w", id, queue.ErrNotFound)
}

// statusIn returns the status in a line of the activity log; the zero value if it has none.
func statusIn(line relay.Activity) (s Status) {
	if line.Data == nil || json.Unmarshal(line.Data, &s) != nil {
		return Status{}
	}
	if s.User = line.Who; s.State == Running {
		s.State = Lost
	}
	return s
}

// IDOf returns the id of the resend that a line of the activity log is about; empty if
// it is about something else.
func IDOf(line relay.Activity) string { return statusIn(line).ID }

// Stop ends a resend. Deliveries that were not queued yet stay as they were.
func (a *All) Stop(view *scope.View, id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r := a.all[id]; r != nil && view.Covers(r.view) {
		r.stop(context.Canceled)
	}
}

// Running returns the resends that run and that a console sees, the newest first.
func (a *All) Running(view *scope.View) (all []Status) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.all {
		if now := r.now(); now.State == Running && view.Covers(r.view) {
			all = append(all, now)
		}
	}
	slices.SortFunc(all, func(a, b Status) int { return b.Began.Compare(a.Began) })
	return all
}

func (r *resend) now() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

func (r *resend) update(change func(*Status)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.status)
}

// note adds a line to the activity log, with the status. The line belongs to projects; nil
// means those of the webhook.
func (r *resend) note(what, webhook, detail string, projects []string) {
	now := r.now()
	data, err := json.Marshal(now)
	if err != nil {
		panic(err) // texts and numbers always marshal
	}
	r.view.Note(relay.Activity{What: what, Who: now.User, Webhook: webhook, Detail: detail, Projects: projects, Data: data})
}

func (r *resend) run(ctx context.Context) {
	defer r.stop(nil)
	r.note("resend began", r.status.Webhook, r.status.What, nil)
	happened := r.view.Subscribe()
	defer happened.Close()
	go func() {
		select {
		case <-happened.Done():
			r.stop(queue.ErrClosed)
		case <-ctx.Done():
		}
	}()
	found := func(n int64) { r.update(func(s *Status) { s.All = n }) }
	err := r.find(ctx, found, func(ids []queue.DeliveryID) error {
		r.update(func(s *Status) {
			s.Finding = false
			s.All = max(s.All, s.Sent+s.Skipped+int64(len(ids)))
		})
		return r.send(ctx, ids, happened.Ready(), func() { happened.Take() })
	})
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	r.update(func(s *Status) {
		s.State, s.Finding, s.Waits = Done, false, nil
		switch {
		case err == nil:
			return
		case errors.Is(err, queue.ErrClosed):
			s.Reason = "The relay was stopped."
		case !errors.Is(err, context.Canceled):
			s.Reason = err.Error()
		}
		s.State = Stopped
	})
	for _, q := range r.queued {
		r.note("deliveries requeued", q.webhook, fmt.Sprint(q.n), q.projects)
	}
	if len(r.queued) == 0 {
		r.note("resend ended", r.now().Webhook, "nothing was queued", nil)
	}
}

// lane holds the work of a resend for one webhook.
type lane struct {
	ids   []queue.DeliveryID       // oldest first
	ahead map[queue.DeliveryID]int // in the queue, with the attempts that they had before
}

// send queues deliveries, a few at a time, until all have been attempted or the context ends.
// It looks again when something happened; take clears that.
func (r *resend) send(ctx context.Context, ids []queue.DeliveryID, happened <-chan struct{}, take func()) error {
	lanes := make(map[queue.WebhookID]*lane)
	for _, id := range ids {
		if lanes[id.Webhook] == nil {
			lanes[id.Webhook] = &lane{ahead: make(map[queue.DeliveryID]int)}
		}
		lanes[id.Webhook].ids = append(lanes[id.Webhook].ids, id)
	}
	ticks := time.NewTicker(pause)
	defer ticks.Stop()
	for {
		if left, err := r.turn(ctx, lanes); err != nil || !left {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-happened:
			take()
		case <-ticks.C:
		}
	}
}

// turn counts the deliveries that were attempted, and queues the next ones. It reports
// whether some are left.
func (r *resend) turn(ctx context.Context, lanes map[queue.WebhookID]*lane) (left bool, err error) {
	byID := make(map[queue.WebhookID]relay.WebhookStatus)
	for _, w := range r.view.Webhooks() {
		byID[w.ID] = w
	}
	var waits []relay.WebhookStatus
	for id, l := range lanes {
		if err := r.settled(ctx, l); err != nil {
			return true, err
		}
		w, there := byID[id]
		room := ahead
		switch {
		case !there:
			r.skip(int64(len(l.ids)))
			l.ids = nil
		case w.Parked, w.State == relay.Disabled, !w.HeldUntil.IsZero():
			room = 0
			waits = append(waits, w)
		case w.State == relay.Failing, w.Probing:
			room = 1
			waits = append(waits, w)
		}
		for len(l.ids) > 0 && len(l.ahead) < room {
			next := l.ids[0]
			l.ids = l.ids[1:]
			if err := r.requeue(ctx, l, next, w.Projects); err != nil {
				return true, err
			}
		}
		left = left || len(l.ids)+len(l.ahead) > 0
	}
	slices.SortFunc(waits, func(a, b relay.WebhookStatus) int { return strings.Compare(a.Name, b.Name) })
	r.update(func(s *Status) {
		s.Waits, s.Queued = waits, 0
		for _, l := range lanes {
			s.Queued += int64(len(l.ahead))
		}
	})
	return left, nil
}

func (r *resend) skip(n int64) { r.update(func(s *Status) { s.Skipped += n }) }

// settled counts the deliveries that were attempted since they were queued.
func (r *resend) settled(ctx context.Context, l *lane) error {
	for id, before := range l.ahead {
		d, err := r.reader.Delivery(ctx, id)
		switch {
		case errors.Is(err, queue.ErrNotFound):
			r.skip(1)
		case err != nil:
			return err
		case d.Attempts == before && d.State.Waiting():
			continue
		default:
			r.update(func(s *Status) {
				s.Sent++
				if d.State == queue.Delivered {
					s.Delivered++
				}
			})
		}
		delete(l.ahead, id)
	}
	return nil
}

// requeue queues one delivery, which it makes if the webhook missed the event. It skips a
// delivery that is already due or being sent, or whose event is gone. projects are those of
// the webhook.
func (r *resend) requeue(ctx context.Context, l *lane, id queue.DeliveryID, projects []string) error {
	d, err := r.reader.Delivery(ctx, id)
	if err == nil && d.State == queue.Pending {
		r.skip(1)
		return nil
	}
	name := ""
	if err == nil || errors.Is(err, queue.ErrNotFound) {
		name, err = r.view.Requeue(ctx, id)
	}
	switch {
	case errors.Is(err, queue.ErrNotFound), errors.Is(err, queue.ErrConflict), errors.Is(err, queue.ErrRedacted):
		r.skip(1)
	case err != nil:
		return fmt.Errorf("sending %s again: %w", id, err)
	default:
		l.ahead[id] = d.Attempts
		if r.queued[id.Webhook] == nil {
			r.queued[id.Webhook] = &queued{webhook: name, projects: append([]string{}, projects...)}
		}
		r.queued[id.Webhook].n++
	}
	return nil
}
