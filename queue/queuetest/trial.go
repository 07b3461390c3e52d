package queuetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
)

const (
	// moment is how long it watches that nothing comes. On a slow machine this can miss
	// a fault, but it never reports a false one.
	moment = 30 * time.Millisecond
	// poll is how often it checks.
	poll = 2 * time.Millisecond
)

// trial is one subtest with its own queue.
type trial struct {
	*testing.T
	h   Harness
	q   queue.Queue
	ctx context.Context //nolint:containedctx // the test's own, with a deadline
	n   int             // number of events made, so that bodies differ
}

func newTrial(t *testing.T, h Harness) *trial {
	ctx, cancel := context.WithTimeout(t.Context(), max(2*time.Minute, 4*h.Patience))
	t.Cleanup(cancel)
	r := &trial{T: t, h: h, ctx: ctx}
	r.take(h.Open(t))
	return r
}

// take makes q the trial's queue and closes it when the test ends.
func (t *trial) take(q queue.Queue) {
	t.q = q
	t.Cleanup(func() {
		if err := q.Close(context.Background()); err != nil && !errors.Is(err, queue.ErrClosed) {
			t.Errorf("closing the queue: %v", err)
		}
	})
}

// reopen closes the queue and opens it again.
func (t *trial) reopen() {
	t.Helper()
	if err := t.q.Close(t.ctx); err != nil {
		t.Fatalf("closing the queue: %v", err)
	}
	t.take(t.h.Reopen(t.T, t.q))
}

// crash kills the queue and opens what it had committed.
func (t *trial) crash() {
	t.Helper()
	t.take(t.h.Crash(t.T, t.q))
}

// ok ends the test on an error.
func (t *trial) ok(doing string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", doing, err)
	}
}

// is ends the test if err is not want.
func (t *trial) is(doing string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: got error %v, want %v", doing, err, want)
	}
}

// equal compares two values with ==.
func equal[T comparable](t *trial, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

// eventually waits until wrong returns an empty text. While the text changes, the queue
// is working, and it gets more time, for busy machines.
func (t *trial) eventually(promise string, wrong func() string) {
	t.Helper()
	const mostPatience = 20
	began := time.Now()
	changed, fault := began, ""
	for ; ; time.Sleep(poll) {
		now := wrong()
		if now == "" {
			return
		}
		if now != fault {
			fault, changed = now, time.Now()
		}
		if time.Since(changed) > t.h.Patience || time.Since(began) > mostPatience*t.h.Patience {
			t.Fatalf("not within %v: %s: %s", t.h.Patience, promise, fault)
		}
	}
}

// webhook creates a webhook.
func (t *trial) webhook(name string) queue.WebhookID {
	t.Helper()
	w, err := t.q.PutWebhook(t.ctx, queue.Webhook{Name: name})
	t.ok("making webhook "+name, err)
	return w.ID
}

// entry returns a new event of a new feedback.
func (t *trial) entry(ws ...queue.WebhookID) queue.Entry {
	t.n++
	return queue.Entry{
		Type:     "feedback.created",
		Feedback: queue.FeedbackID{Project: "proj", ID: fmt.Sprintf("fb_%d", t.n)},
		Created:  time.Now(),
		Body:     fmt.Appendf(nil, `{"event":"feedback.created","n":%d}`, t.n),
		Webhooks: ws,
	}
}

// update returns the next event of a feedback, given its latest event.
func (t *trial) update(latest queue.Event, ws ...queue.WebhookID) queue.Entry {
	e := t.entry(ws...)
	e.Type, e.Feedback, e.Replaces = "feedback.updated", latest.Feedback, latest.ID
	return e
}

// own returns a new event of the relay's own.
func (t *trial) own(ws ...queue.WebhookID) queue.Entry {
	e := t.entry(ws...)
	e.Type, e.Feedback = ".mail", queue.FeedbackID{}
	return e
}

// foreign returns the id of an event in another store of the same engine.
func (t *trial) foreign() queue.EventID {
	t.Helper()
	other := *t
	other.take(t.h.Open(t.T))
	return other.enqueue().ID
}

// latest reads the latest event of a feedback.
func (t *trial) latest(id queue.FeedbackID) queue.Event {
	t.Helper()
	e, err := t.q.Latest(t.ctx, id)
	t.ok("Latest of "+id.String(), err)
	return e
}

// accept stores an entry. It must succeed.
func (t *trial) accept(e queue.Entry) queue.Event {
	t.Helper()
	r, err := t.q.Enqueue(t.ctx, e)
	t.ok("Enqueue", err)
	if r.Replayed {
		t.Fatalf("Enqueue of a new event says it is a replay of %s", r.Event.ID)
	}
	return r.Event
}

// enqueue stores an event for these webhooks.
func (t *trial) enqueue(ws ...queue.WebhookID) queue.Event {
	t.Helper()
	return t.accept(t.entry(ws...))
}

// several stores n events for these webhooks.
func (t *trial) several(n int, ws ...queue.WebhookID) []queue.Event {
	t.Helper()
	events := make([]queue.Event, n)
	for i := range events {
		events[i] = t.enqueue(ws...)
	}
	return events
}

// lane opens a webhook's lane.
func (t *trial) lane(w queue.WebhookID, inFlight int) queue.Lane {
	t.Helper()
	l, err := t.q.Lane(w, queue.LaneOptions{MaxInFlight: inFlight, Lease: time.Minute})
	t.ok(fmt.Sprintf("opening the lane of webhook %d", w), err)
	return l
}

// next returns the leases of Next. There must be some.
func (t *trial) next(l queue.Lane, most int) []*queue.Lease {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.ctx, t.h.Patience)
	defer cancel()
	leases, err := l.Next(ctx, most)
	if err != nil {
		t.Fatalf("Next, with something to hand out: %v", err)
	}
	if len(leases) < 1 || len(leases) > most {
		t.Fatalf("Next(%d) returned %d leases", most, len(leases))
	}
	return leases
}

// one returns the next lease.
func (t *trial) one(l queue.Lane) *queue.Lease {
	t.Helper()
	return t.next(l, 1)[0]
}

// leases returns the next n leases.
func (t *trial) leases(l queue.Lane, n int) []*queue.Lease {
	t.Helper()
	var all []*queue.Lease
	for len(all) < n {
		all = append(all, t.next(l, n-len(all))...)
	}
	return all
}

// nothing checks for a moment that the lane hands nothing out.
func (t *trial) nothing(l queue.Lane, why string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.ctx, moment)
	defer cancel()
	leases, err := l.Next(ctx, 1)
	if err == nil {
		t.Fatalf("Next handed out %s (%s, attempts %d), but %s", leases[0].Delivery.ID, leases[0].Delivery.State, leases[0].Delivery.Attempts, why)
	}
	t.is("Next until a deadline", err, context.DeadlineExceeded)
}

// until waits for a time that the test has set.
func (t *trial) until(at time.Time) {
	t.Helper()
	select {
	case <-time.After(time.Until(at)):
	case <-t.ctx.Done():
		t.Fatal(t.ctx.Err())
	}
}

// requeue requeues a delivery that is not leased. Its last settlement may still be on
// its way to the disk.
func (t *trial) requeue(id queue.DeliveryID, at time.Time) {
	t.Helper()
	t.eventually("Requeue of a delivery that is not leased", func() string {
		err := t.q.Requeue(t.ctx, id, at)
		if err != nil && !errors.Is(err, queue.ErrConflict) {
			t.Fatalf("Requeue: %v", err)
		}
		return text(err)
	})
}

func text(err error) string {
	if err != nil {
		return err.Error()
	}
	return ""
}

// delivery reads a delivery.
func (t *trial) delivery(id queue.DeliveryID) queue.Delivery {
	t.Helper()
	d, err := t.q.Delivery(t.ctx, id)
	t.ok("Delivery", err)
	return d
}

// becomes waits until a delivery has a state and returns the delivery.
func (t *trial) becomes(id queue.DeliveryID, s queue.State) (d queue.Delivery) {
	t.Helper()
	t.eventually("the delivery becomes "+s.String(), func() string {
		if d = t.delivery(id); d.State != s {
			return fmt.Sprintf("it is %s", d.State)
		}
		return ""
	})
	return d
}

// counts waits until a webhook's counters have these values.
func (t *trial) counts(w queue.WebhookID, want queue.Counts) {
	t.Helper()
	t.eventually(fmt.Sprintf("Stats of webhook %d count %+v", w, want), func() string {
		if got := t.q.Stats(t.ctx).Webhooks[w].Counts; got != want {
			return fmt.Sprintf("they count %+v", got)
		}
		return ""
	})
}

// attempts returns the attempts of a delivery.
func (t *trial) attempts(id queue.DeliveryID) []queue.Attempt {
	t.Helper()
	as, err := t.q.Attempts(t.ctx, id)
	t.ok("Attempts", err)
	return as
}

// pages walks through a list to its end. It calls between after every page but the
// last.
func pages[T any](t *trial, list func(cursor string) (queue.Page[T], error), between func()) (all []T) {
	t.Helper()
	cursor := ""
	for range 100_000 {
		page, err := list(cursor)
		t.ok("reading a page", err)
		all = append(all, page.Items...)
		if page.Next == "" {
			return all
		}
		cursor = page.Next
		between()
	}
	t.Fatalf("a list of %d rows so far has no end", len(all))
	return nil
}

// allEvents lists every event that q selects, page by page.
func (t *trial) allEvents(q queue.EventQuery) []queue.Event {
	t.Helper()
	return pages(t, func(cursor string) (queue.Page[queue.Event], error) {
		q.Cursor = cursor
		return t.q.Events(t.ctx, q)
	}, func() {})
}

// allDeliveries lists every delivery that q selects, page by page.
func (t *trial) allDeliveries(q queue.DeliveryQuery) []queue.Delivery {
	t.Helper()
	return pages(t, func(cursor string) (queue.Page[queue.Delivery], error) {
		q.Cursor = cursor
		return t.q.Deliveries(t.ctx, q)
	}, func() {})
}

// allActivities lists every activity, page by page.
func (t *trial) allActivities(limit int) []queue.Activity {
	t.Helper()
	return pages(t, func(cursor string) (queue.Page[queue.Activity], error) {
		return t.q.Activities(t.ctx, limit, cursor)
	}, func() {})
}

// sameIDs compares two lists of ids, in order, and reports the first difference.
func sameIDs[T comparable](t *trial, what string, got, want []T) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("%s: at %d of %d is %v, want %v", what, i, len(want), got[i], want[i])
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%s: %d rows, want %d", what, len(got), len(want))
	}
}

func idsOf[T any, ID comparable](rows []T, id func(T) ID) []ID {
	ids := make([]ID, len(rows))
	for i, row := range rows {
		ids[i] = id(row)
	}
	return ids
}

func eventID(e queue.Event) queue.EventID          { return e.ID }
func deliveryID(d queue.Delivery) queue.DeliveryID { return d.ID }
func leasedEvent(l *queue.Lease) queue.EventID     { return l.Event.ID }

// reversed returns a reversed copy.
func reversed[T any](rows []T) []T {
	rows = slices.Clone(rows)
	slices.Reverse(rows)
	return rows
}

// made returns an attempt with a status.
func made(status int) queue.Attempt {
	a := queue.Attempt{At: time.Now(), Duration: time.Millisecond, Status: status}
	if status/100 != 2 {
		a.Error, a.ErrorClass = fmt.Sprintf("status %d", status), "status"
	}
	return a
}

// differences returns the first few lines in which two texts differ.
func differences(got, want []string) string {
	const most = 8
	var b strings.Builder
	n := 0
	for i := range max(len(got), len(want)) {
		g, w := "(nothing)", "(nothing)"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g == w {
			continue
		}
		if n++; n <= most {
			fmt.Fprintf(&b, "\n   got %s\n  want %s", g, w)
		}
	}
	if n > most {
		fmt.Fprintf(&b, "\n  and %d more", n-most)
	}
	return b.String()
}
