package queuetest

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/userhero/relay/queue"
)

func webhookRevisionsAreCompareAndSwap(t *trial) {
	made, err := t.q.PutWebhook(t.ctx, queue.Webhook{ID: 4711, Name: "w", Data: []byte("one")})
	t.ok("PutWebhook", err)
	if made.ID == 4711 || made.ID == 0 || made.Revision == 0 {
		t.Fatalf("a new webhook got id %d and revision %d, want an id of the queue's own, and a revision", made.ID, made.Revision)
	}
	changed := made
	changed.Data, changed.Expires = []byte{0, 255}, true
	changed, err = t.q.PutWebhook(t.ctx, changed)
	t.ok("PutWebhook of the stored revision", err)
	equal(t, "the id", changed.ID, made.ID)
	if changed.Revision <= made.Revision {
		t.Errorf("the revision went from %d to %d", made.Revision, changed.Revision)
	}
	_, err = t.q.PutWebhook(t.ctx, made)
	t.is("PutWebhook of an old revision", err, queue.ErrConflict)
	_, err = t.q.DeleteWebhook(t.ctx, made.ID, made.Revision)
	t.is("DeleteWebhook of an old revision", err, queue.ErrConflict)
	check := func() {
		t.Helper()
		ws, err := t.q.Webhooks(t.ctx)
		t.ok("Webhooks", err)
		if len(ws) != 1 || ws[0].ID != changed.ID || ws[0].Name != "w" || ws[0].Revision != changed.Revision ||
			!ws[0].Expires || !bytes.Equal(ws[0].Data, []byte{0, 255}) {
			t.Fatalf("the webhooks are %+v, want %+v alone", ws, changed)
		}
	}
	check()
	t.reopen()
	check()
	_, err = t.q.PutWebhook(t.ctx, made)
	t.is("PutWebhook of an old revision, after reopening", err, queue.ErrConflict)
	_, err = t.q.DeleteWebhook(t.ctx, changed.ID, changed.Revision)
	t.ok("DeleteWebhook of the stored revision", err)
	_, err = t.q.PutWebhook(t.ctx, changed)
	t.is("PutWebhook of a revision of what was deleted", err, queue.ErrNotFound)
}

func concurrentPutsLetOneWin(t *trial) {
	w, err := t.q.PutWebhook(t.ctx, queue.Webhook{Name: "w"})
	t.ok("PutWebhook", err)
	for _, put := range []struct {
		name string
		w    queue.Webhook
	}{{"of one revision", w}, {"of one new name", queue.Webhook{Name: "new"}}} {
		var won atomic.Int32
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				mine := put.w
				mine.Data = fmt.Append(nil, i)
				switch _, err := t.q.PutWebhook(t.ctx, mine); {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, queue.ErrConflict):
					t.Errorf("PutWebhook %s: %v", put.name, err)
				}
			})
		}
		wg.Wait()
		equal(t, "how many puts "+put.name+" succeeded", won.Load(), 1)
	}
}

func webhookNamesAreUnique(t *trial) {
	a, b := t.webhook("a"), t.webhook("b")
	_, err := t.q.PutWebhook(t.ctx, queue.Webhook{Name: "a"})
	t.is("making a second webhook of a name", err, queue.ErrConflict)
	_, err = t.q.PutWebhook(t.ctx, queue.Webhook{ID: b, Name: "a", Revision: 1})
	t.is("giving a webhook another one's name", err, queue.ErrConflict)
	_, err = t.q.PutWebhook(t.ctx, queue.Webhook{ID: a, Name: "c", Revision: 1})
	t.ok("giving a webhook a new name", err)
	_, err = t.q.PutWebhook(t.ctx, queue.Webhook{ID: b, Name: "a", Revision: 1})
	t.ok("giving a webhook a name that became free", err)
}

func webhookIDsAreNeverReused(t *trial) {
	seen := make(map[queue.WebhookID]bool)
	for i := range 8 {
		id := t.webhook("w")
		if seen[id] {
			t.Fatalf("the webhook id %d was given twice", id)
		}
		seen[id] = true
		e := t.enqueue(id)
		l := t.lane(id, 8)
		equal(t, "what a new webhook gets", t.one(l).Event.ID, e.ID)
		t.nothing(l, "what its predecessor of the same name had is not its own")
		n, err := t.q.DeleteWebhook(t.ctx, id, 1)
		t.ok("DeleteWebhook", err)
		equal(t, "how many deliveries it ended", n, 1)
		if i%3 == 2 {
			t.reopen()
		}
	}
}

func webhooksComeByID(t *trial) {
	var want []queue.WebhookID
	for _, name := range []string{"c", "a", "b", "e", "d"} {
		want = append(want, t.webhook(name))
	}
	_, err := t.q.DeleteWebhook(t.ctx, want[1], 1)
	t.ok("DeleteWebhook", err)
	_, err = t.q.PutWebhook(t.ctx, queue.Webhook{ID: want[0], Name: "z", Revision: 1})
	t.ok("PutWebhook", err)
	want = append(want[:1], want[2:]...)
	ws, err := t.q.Webhooks(t.ctx)
	t.ok("Webhooks", err)
	sameIDs(t, "the webhooks", idsOf(ws, func(w queue.Webhook) queue.WebhookID { return w.ID }), want)
}

func deleteEndsWhatWaits(t *trial) {
	w, other := t.webhook("w"), t.webhook("other")
	l := t.lane(w, 8)
	ids := t.inEveryState(l, w)
	fresh := t.several(2, w, other)
	lease := t.one(l)
	waits := t.waiting(t.ctx, t.lane(other, 8))
	t.answered(waits, "it had work from the start")

	// Four are waiting: the deferred one, the retry, the leased one and a fresh one.
	n, err := t.q.DeleteWebhook(t.ctx, w, 1)
	t.ok("DeleteWebhook", err)
	equal(t, "how many waiting deliveries it ended", n, 4)
	_, err = l.Next(t.ctx, 1)
	t.is("Next of a deleted webhook's lane", err, queue.ErrClosed)
	t.is("Ack of a deleted webhook's lease", lease.Ack(made(200)), queue.ErrLeaseLost)
	_, err = t.q.Lane(w, queue.LaneOptions{})
	t.is("Lane of a deleted webhook", err, queue.ErrNotFound)
	t.is("Requeue to a deleted webhook", t.q.Requeue(t.ctx, ids[queue.Failed], time.Now()), queue.ErrNotFound)
	_, err = t.q.DeleteWebhook(t.ctx, w, 1)
	t.is("DeleteWebhook a second time", err, queue.ErrNotFound)
	check := func() {
		t.Helper()
		for state, id := range ids {
			want := queue.Failed
			if state == queue.Delivered {
				want = queue.Delivered
			}
			d := t.delivery(id)
			equal(t, fmt.Sprintf("the state of what was %s", state), d.State, want)
			equal(t, "its due time", d.Due, time.Time{})
		}
		for _, e := range fresh {
			equal(t, "the state of what was fresh", t.delivery(queue.DeliveryID{Event: e.ID, Webhook: w}).State, queue.Failed)
		}
		equal(t, "how many of its deliveries are listed as failed",
			len(t.allDeliveries(queue.DeliveryQuery{Webhook: w, States: []queue.State{queue.Failed}})), 5)
		equal(t, "how many of its deliveries are listed as waiting",
			len(t.allDeliveries(queue.DeliveryQuery{Webhook: w, States: []queue.State{queue.Pending, queue.Retrying}})), 0)
		if _, counted := t.q.Stats(t.ctx).Webhooks[w]; counted {
			t.Error("Stats still count the webhook")
		}
		t.counts(other, queue.Counts{Pending: 2})
	}
	check()
	t.reopen()
	check()
	sameIDs(t, "what another webhook gets", idsOf(t.leases(t.lane(other, 8), 2), leasedEvent), idsOf(fresh, eventID))
}
