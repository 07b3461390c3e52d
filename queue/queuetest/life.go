package queuetest

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/userhero/relay/queue"
)

// everything reads everything that a queue shows, one line per row.
func (t *trial) everything() (lines []string) {
	t.Helper()
	line := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	for _, e := range t.allEvents(queue.EventQuery{Limit: 1000}) {
		line("event %+v", e)
		if e.Feedback.IsZero() {
			continue
		}
		line("latest of %s: %s", e.Feedback, t.latest(e.Feedback).ID)
	}
	for _, d := range t.allDeliveries(queue.DeliveryQuery{Limit: 1000}) {
		line("delivery %+v", d)
		for _, a := range t.attempts(d.ID) {
			line("attempt of %s: %+v", d.ID, a)
		}
	}
	ws, err := t.q.Webhooks(t.ctx)
	t.ok("Webhooks", err)
	st := t.q.Stats(t.ctx)
	for _, w := range ws {
		line("webhook %+v, %+v", w, st.Webhooks[w.ID].Counts)
	}
	for _, a := range t.allActivities(1000) {
		line("activity %+v", a)
	}
	line("%d events, %d webhooks are counted", st.Events, len(st.Webhooks))
	return lines
}

func reopenKeepsEverything(t *trial) {
	a, b := t.webhook("a"), t.webhook("b")
	l := t.lane(a, 8)
	t.inEveryState(l, a)
	first := t.enqueue(a, b)
	update := t.update(first, b)
	update.Key = key("k", 1)
	updated := t.accept(update)
	gone := t.webhook("gone")
	t.several(3, b, gone)
	_, err := t.q.DeleteWebhook(t.ctx, gone, 1)
	t.ok("DeleteWebhook", err)
	t.ok("AppendActivity", t.q.AppendActivity(t.ctx, queue.Activity{At: time.Now(), Data: []byte("deleted")}))
	before := t.everything()
	for range 2 {
		t.reopen()
		if diff := differences(t.everything(), before); diff != "" {
			t.Fatalf("after reopening:%s", diff)
		}
	}
	t.replays("after reopening", update, updated)
	l = t.lane(b, 8)
	equal(t, "what the other lane hands out", t.one(l).Event.ID, first.ID)
	for range 4 {
		t.ok("Ack", t.one(l).Ack(made(200)))
	}
	t.counts(b, queue.Counts{Pending: 1, Delivered: 4})
}

func reopenHandsLeasesOutAgain(t *trial) {
	w := t.webhook("w")
	events := t.several(6, w)
	l := t.lane(w, 4)
	out := t.leases(l, 4)
	t.ok("Ack", out[1].Ack(made(200)))
	t.reopen()
	for _, i := range []int{0, 1} {
		if err := out[i].Ack(made(200)); !errors.Is(err, queue.ErrLeaseLost) && !errors.Is(err, queue.ErrClosed) {
			t.Errorf("Ack of a lease of a queue that was closed: %v", err)
		}
	}
	leases := t.leases(t.lane(w, 8), 5)
	sameIDs(t, "what is handed out", idsOf(leases, leasedEvent),
		[]queue.EventID{events[0].ID, events[2].ID, events[3].ID, events[4].ID, events[5].ID})
	for _, lease := range leases {
		equal(t, "the attempts of what was leased", lease.Delivery.Attempts, 0)
	}
}

func closeCommitsWhatWasSettled(t *trial) {
	w := t.webhook("w")
	const n = 40
	t.several(n, w)
	l := t.lane(w, n)
	for i, lease := range t.leases(l, n) {
		s := settlements[i%len(settlements)]
		t.ok(s.name, s.do(lease))
	}
	t.reopen()
	equal(t, "the counters", t.q.Stats(t.ctx).Webhooks[w].Counts, queue.Counts{Pending: n / 4, Retrying: n / 4, Delivered: n / 4, Failed: n / 4})
	for _, d := range t.allDeliveries(queue.DeliveryQuery{}) {
		equal(t, "the attempts kept", len(t.attempts(d.ID)), d.Attempts)
	}
	t.nothing(t.lane(w, n), "all was settled before the queue was closed")
}

func closeUnderLoadLosesNothing(t *trial) {
	w := t.webhook("w")
	l := t.lane(w, 16)
	var wg sync.WaitGroup
	var mu sync.Mutex
	stored := make(map[queue.EventID]bool)
	begun := make(chan struct{}, 8)
	for range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				r, err := t.q.Enqueue(t.ctx, queue.Entry{
					Type: "feedback.created", Created: time.Now(), Body: []byte("{}"), Webhooks: []queue.WebhookID{w},
				})
				if err != nil {
					if !errors.Is(err, queue.ErrClosed) {
						t.Errorf("Enqueue while the queue closes: %v", err)
					}
					return
				}
				mu.Lock()
				stored[r.Event.ID] = true
				mu.Unlock()
				if i == 5 {
					begun <- struct{}{}
				}
			}
		})
	}
	wg.Go(func() {
		for {
			leases, err := l.Next(t.ctx, 4)
			if err != nil {
				if !errors.Is(err, queue.ErrClosed) {
					t.Errorf("Next while the queue closes: %v", err)
				}
				return
			}
			for _, lease := range leases {
				if err := lease.Ack(made(200)); err != nil && !errors.Is(err, queue.ErrLeaseLost) && !errors.Is(err, queue.ErrClosed) {
					t.Errorf("Ack while the queue closes: %v", err)
				}
			}
		}
	})
	for range cap(begun) {
		<-begun
	}
	q := t.q
	t.ok("closing under load", q.Close(t.ctx))
	wg.Wait()
	t.take(t.h.Reopen(t.T, q))
	var waiting int64
	for _, d := range t.allDeliveries(queue.DeliveryQuery{Limit: 1000}) {
		delete(stored, d.ID.Event)
		if d.State.Waiting() {
			waiting++
		}
	}
	for id := range stored {
		t.Errorf("%s was acknowledged and is not stored", id)
	}
	equal(t, "how many wait by the counters", t.q.Stats(t.ctx).Webhooks[w].Waiting(), waiting)
}

func closedQueueSaysSo(t *trial) {
	w := t.webhook("w")
	e := t.enqueue(w)
	id := queue.DeliveryID{Event: e.ID, Webhook: w}
	t.ok("Health", t.q.Health())
	lease := t.one(t.lane(w, 1))
	t.ok("Close", t.q.Close(t.ctx))
	errs := make(map[string]error)
	_, errs["Enqueue"] = t.q.Enqueue(t.ctx, t.entry(w))
	_, errs["Lane"] = t.q.Lane(w, queue.LaneOptions{})
	errs["Requeue"] = t.q.Requeue(t.ctx, id, time.Now())
	_, errs["Event"] = t.q.Event(t.ctx, e.ID)
	_, errs["Latest"] = t.q.Latest(t.ctx, e.Feedback)
	_, errs["Projects"] = t.q.Projects(t.ctx, e.Feedback.ID, 1)
	_, errs["Repeat"] = t.q.Repeat(t.ctx, key("k", 1))
	_, errs["Events"] = t.q.Events(t.ctx, queue.EventQuery{})
	_, errs["Delivery"] = t.q.Delivery(t.ctx, id)
	_, errs["EventDeliveries"] = t.q.EventDeliveries(t.ctx, e.ID)
	_, errs["Deliveries"] = t.q.Deliveries(t.ctx, queue.DeliveryQuery{})
	_, errs["Attempts"] = t.q.Attempts(t.ctx, id)
	_, errs["Webhooks"] = t.q.Webhooks(t.ctx)
	_, errs["PutWebhook"] = t.q.PutWebhook(t.ctx, queue.Webhook{Name: "new"})
	_, errs["DeleteWebhook"] = t.q.DeleteWebhook(t.ctx, w, 1)
	errs["AppendActivity"] = t.q.AppendActivity(t.ctx, queue.Activity{At: time.Now()})
	_, errs["Activities"] = t.q.Activities(t.ctx, 0, "")
	errs["Health"] = t.q.Health()
	for method, err := range errs {
		if !errors.Is(err, queue.ErrClosed) {
			t.Errorf("%s of a closed queue: got error %v, want %v", method, err, queue.ErrClosed)
		}
	}
	if err := lease.Ack(made(200)); !errors.Is(err, queue.ErrLeaseLost) && !errors.Is(err, queue.ErrClosed) {
		t.Errorf("Ack of a closed queue's lease: got error %v, want %v or %v", err, queue.ErrLeaseLost, queue.ErrClosed)
	}
	_ = t.q.Stats(t.ctx) // must not panic
	if err := t.q.Close(t.ctx); err != nil && !errors.Is(err, queue.ErrClosed) {
		t.Errorf("Close a second time: %v", err)
	}
}

// crashKeepsWhatWasAcknowledged: everything that returned without an error is there
// after a crash.
func crashKeepsWhatWasAcknowledged(t *trial) {
	w := t.webhook("w")
	e := t.entry(w)
	e.Key = key("k", 1)
	first := t.accept(e)
	events := append([]queue.Event{first}, t.several(20, w)...)
	t.requeue(queue.DeliveryID{Event: events[3].ID, Webhook: w}, time.Now().Add(time.Hour))
	changed, err := t.q.PutWebhook(t.ctx, queue.Webhook{ID: w, Name: "w", Revision: 1, Data: []byte("changed")})
	t.ok("PutWebhook", err)
	t.ok("AppendActivity", t.q.AppendActivity(t.ctx, queue.Activity{At: time.Now(), Data: []byte("changed")}))
	out := t.leases(t.lane(w, 4), 4) // lost with the process
	before := t.everything()
	t.crash()
	if diff := differences(t.everything(), before); diff != "" {
		t.Fatalf("after the crash:%s", diff)
	}
	t.replays("after the crash", e, first)
	_, err = t.q.PutWebhook(t.ctx, changed)
	t.ok("PutWebhook of the revision that was acknowledged", err)
	leases := t.leases(t.lane(w, 4), 4)
	sameIDs(t, "what is handed out", idsOf(leases, leasedEvent), idsOf(out, leasedEvent))
}

// crashLosesNoDelivery: a crash may lose a settlement; its delivery then comes again. A
// delivery that neither comes again nor has ended is lost.
func crashLosesNoDelivery(t *trial) {
	w := t.webhook("w")
	const n = 60
	settled := make(map[queue.DeliveryID]settlement)
	lost := 0
	for range 3 {
		l := t.lane(w, n)
		t.several(n/3, w)
		for i, lease := range t.leases(l, n/3) {
			s := settlements[i%len(settlements)]
			if s.state.Waiting() && i%8 < 4 {
				continue // leased when the process dies
			}
			t.ok(s.name, s.do(lease))
			settled[lease.Delivery.ID] = s
		}
		t.crash()
		l = t.lane(w, n)
		again := make(map[queue.DeliveryID]*queue.Lease)
		for _, d := range t.allDeliveries(queue.DeliveryQuery{States: []queue.State{queue.Pending}}) {
			if d.Due.IsZero() { // neither settled nor deferred: due now
				again[d.ID] = nil
			}
		}
		for range len(again) {
			lease := t.one(l)
			again[lease.Delivery.ID] = lease
		}
		for _, d := range t.allDeliveries(queue.DeliveryQuery{}) {
			equal(t, "the attempts kept", len(t.attempts(d.ID)), d.Attempts)
			s, was := settled[d.ID]
			lease, comes := again[d.ID]
			switch {
			case comes && lease == nil:
				t.Errorf("%s is %s, due at once, and is not handed out", d.ID, d.State)
			case comes:
				equal(t, "the attempts of what is handed out again", lease.Delivery.Attempts, 0)
				if was {
					lost++
				}
				t.ok("Ack", lease.Ack(made(200)))
				settled[d.ID] = settlements[0]
			case !was:
				t.Errorf("%s was never settled, is %s, due %v, and does not come", d.ID, d.State, d.Due)
			case d.State != s.state || d.Attempts != s.attempts:
				t.Errorf("%s was settled by %s; it is %s with %d attempts and does not come", d.ID, s.name, d.State, d.Attempts)
			}
		}
		t.reopen()
		for _, d := range t.allDeliveries(queue.DeliveryQuery{}) {
			equal(t, "the state of "+d.ID.String(), d.State, settled[d.ID].state)
		}
	}
	t.Logf("%d settlements were lost with the process, and came again", lost)
}
