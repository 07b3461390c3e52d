package queuetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/userhero/relay/queue"
)

// within returns a trial of the same promise on a queue with limits.
func (t *trial) within(l queue.Limits) *trial {
	t.Helper()
	limited := *t
	limited.take(t.h.OpenWithin(t.T, l))
	return &limited
}

// isGone reports whether the queue has removed an event.
func (t *trial) isGone(id queue.EventID) bool {
	t.Helper()
	_, err := t.q.Event(t.ctx, id)
	if err != nil && !errors.Is(err, queue.ErrNotFound) {
		t.Fatalf("Event: %v", err)
	}
	return err != nil
}

// goesAfter waits until an event is removed. It must not be removed before at.
func (t *trial) goesAfter(at time.Time, what string, id queue.EventID) {
	t.Helper()
	t.eventually(what+" goes", func() string {
		if !t.isGone(id) {
			return "it is there"
		}
		return ""
	})
	if early := time.Until(at); early > 0 {
		t.Errorf("%s is gone %v before its time", what, early)
	}
}

// stays fails if an event has been removed.
func (t *trial) stays(what string, id queue.EventID) {
	t.Helper()
	if t.isGone(id) {
		t.Errorf("%s is gone", what)
	}
}

// outlived checks that an entry whose event has been removed is still a repeat and gets
// the first answer.
func (t *trial) outlived(e queue.Entry) {
	t.Helper()
	events := t.q.Stats(t.ctx).Events
	again := t.entry()
	again.Key = e.Key
	// While tables are merged, the old and the new ones are both on disk. Near max_disk
	// the queue is full until the merge ends.
	enqueue := func() (r queue.Receipt, err error) {
		t.Helper()
		t.eventually("a queue that was full takes entries", func() string {
			if r, err = t.q.Enqueue(t.ctx, again); errors.Is(err, queue.ErrFull) {
				return err.Error()
			}
			return ""
		})
		return r, err
	}
	r, err := enqueue()
	t.ok("Enqueue of a repeat whose event is gone", err)
	equal(t, "Replayed of a repeat whose event is gone", r.Replayed, true)
	equal(t, "its answer", string(r.Answer), string(e.Answer))
	if n := t.q.Stats(t.ctx).Events; n > events { // others may have been removed meanwhile
		t.Errorf("a repeat whose event is gone has stored %d events", n-events)
	}
	again.Key.Hash[0]++
	_, err = enqueue()
	t.is("Enqueue of the same key with another hash", err, queue.ErrMismatch)
}

// keysOutliveTheirEvents: a key is kept for 24 hours, whatever the retention is.
func keysOutliveTheirEvents(t *trial) {
	retention := t.h.Retention
	t = t.within(queue.Limits{Retention: retention})
	e := t.entry()
	e.Key, e.Answer = key("k", 1), []byte("the first answer")
	first := t.accept(e)
	t.goesAfter(first.Created.Add(retention), "an event with a key", first.ID)
	t.outlived(e)
	t.reopen()
	t.outlived(e)
}

// retentionCountsFromTheEnd: an event is removed some time after its delivery ended. An
// event that waits stays, however old it is.
func retentionCountsFromTheEnd(t *trial) {
	retention := t.h.Retention
	t = t.within(queue.Limits{Retention: retention})
	w := t.webhook("w")
	l := t.lane(w, 8)
	waits, quick := t.enqueue(w), t.enqueue(w)
	leases := t.leases(l, 2)
	ended := time.Now()
	t.ok("Ack", leases[1].Ack(made(200)))
	unaddressed, accepted := t.enqueue(), time.Now()
	t.goesAfter(ended.Add(retention), "an event that was delivered", quick.ID)
	t.goesAfter(accepted.Add(retention), "an event that nobody wanted", unaddressed.ID)
	t.stays("an event that waits", waits.ID)
	ended = time.Now()
	t.ok("Dead", leases[0].Dead(made(500)))
	t.becomes(leases[0].Delivery.ID, queue.Failed)
	t.goesAfter(ended.Add(retention), "an event that waited for long and failed", waits.ID)
	_, err := t.q.Latest(t.ctx, quick.Feedback)
	t.is("Latest of a feedback whose events are gone", err, queue.ErrNotFound)
	equal(t, "the number of events", t.q.Stats(t.ctx).Events, 0)
	t.counts(w, queue.Counts{})
}

// retentionCountsFromTheLastDelivery: the retention counts from the end of a
// redelivery, even if the event was already scheduled for removal after its first end.
func retentionCountsFromTheLastDelivery(t *trial) {
	retention := t.h.Retention
	t = t.within(queue.Limits{Retention: retention})
	w, other := t.webhook("w"), t.webhook("other")
	l, lo := t.lane(w, 8), t.lane(other, 8)
	e := t.enqueue(w)
	lease := t.one(l)
	t.until(e.Created.Add(retention + retention/2)) // the event is old when it ends
	t.ok("Ack", lease.Ack(made(200)))
	t.becomes(lease.Delivery.ID, queue.Delivered)
	ended := time.Now()
	for _, again := range []struct {
		w queue.WebhookID
		l queue.Lane
	}{{w, l}, {other, lo}, {w, l}} {
		t.until(ended.Add(retention / 2))
		t.requeue(queue.DeliveryID{Event: e.ID, Webhook: again.w}, time.Now())
		lease = t.one(again.l)
		ended = time.Now()
		t.ok("Ack", lease.Ack(made(200)))
		t.becomes(lease.Delivery.ID, queue.Delivered)
	}
	t.goesAfter(ended.Add(retention), "an event that was delivered again", e.ID)
}

// cancelledDeliveriesHoldNothing: deliveries of a deleted webhook have no end from
// which retention could count. An old event is removed at once. If the event also had a
// delivery to another webhook, it stays for the retention after that ended.
func cancelledDeliveriesHoldNothing(t *trial) {
	retention := 2 * t.h.Patience // long enough that a retention counted from the deletion would be noticed
	t = t.within(queue.Limits{Retention: retention})
	w, other := t.webhook("w"), t.webhook("other")
	old := func(ws ...queue.WebhookID) queue.Event {
		e := t.entry(ws...)
		e.Created = time.Now().Add(-2 * retention)
		return t.accept(e)
	}
	cancelled, both := old(w), old(w, other)
	delivered := t.one(t.lane(other, 8))
	t.ok("Ack", delivered.Ack(made(200)))
	t.becomes(delivered.Delivery.ID, queue.Delivered)
	t.stays("an event that waits", cancelled.ID)
	_, err := t.q.DeleteWebhook(t.ctx, w, 1)
	t.ok("DeleteWebhook", err)
	t.goesAfter(time.Now(), "an old event whose only delivery was cancelled", cancelled.ID)
	t.stays("an event that was delivered just now", both.ID)
	equal(t, "the end of a cancelled delivery", t.delivery(queue.DeliveryID{Event: both.ID, Webhook: w}).Ended, time.Time{})
}

// parkedDeliveriesExpire: events that wait only for a parked webhook are removed when
// they are as old as the retention, even if the webhook is parked later. An event that
// also waits for another webhook stays.
func parkedDeliveriesExpire(t *trial) {
	retention := t.h.Retention
	t = t.within(queue.Limits{Retention: retention})
	other := t.webhook("other")
	w, err := t.q.PutWebhook(t.ctx, queue.Webhook{Name: "parked"})
	t.ok("PutWebhook", err)
	l := t.lane(w.ID, 8)
	fresh := t.enqueue(w.ID)
	retrying := t.enqueue(w.ID)
	both := t.enqueue(w.ID, other)
	for _, lease := range t.leases(l, 3) {
		if lease.Event.ID == retrying.ID {
			t.ok("Retry", lease.Retry(time.Now().Add(time.Hour), made(500)))
		}
	}
	t.ok("closing the lane", l.Close())
	t.until(both.Created.Add(2 * retention))
	for what, id := range map[string]queue.EventID{"a fresh delivery": fresh.ID, "a retry": retrying.ID, "what waits for two": both.ID} {
		t.stays(what+" of a webhook that is not parked", id)
	}
	w.Expires = true
	w, err = t.q.PutWebhook(t.ctx, w)
	t.ok("PutWebhook", err)
	t.goesAfter(time.Now(), "a fresh delivery of a parked webhook", fresh.ID)
	t.goesAfter(time.Now(), "a retry of a parked webhook", retrying.ID)
	young := t.enqueue(w.ID)
	t.goesAfter(young.Created.Add(retention), "a young delivery of a parked webhook", young.ID)
	t.stays("what waits for another webhook too", both.ID)
	w.Expires = false
	w, err = t.q.PutWebhook(t.ctx, w)
	t.ok("PutWebhook", err)
	back := t.enqueue(w.ID)
	t.until(back.Created.Add(2 * retention))
	t.stays("a delivery of a webhook that came back", back.ID)
	t.counts(w.ID, queue.Counts{Pending: 2})
}

// parkedAndDeletedWebhooksLetGo: webhooks are parked and deleted at random moments
// while the queue removes events. None of their events stays.
func parkedAndDeletedWebhooksLetGo(t *trial) {
	retention := t.h.Retention
	const rounds = 60
	t = t.within(queue.Limits{Retention: retention})
	var busy sync.WaitGroup
	ctx, stop := context.WithCancel(t.ctx)
	for range 2 {
		busy.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				e := queue.Entry{Type: "feedback.created", Created: time.Now().Add(-2 * retention), Body: []byte("{}")}
				if _, err := t.q.Enqueue(t.ctx, e); err != nil {
					t.Errorf("Enqueue: %v", err)
					return
				}
			}
		})
	}
	for i := range rounds {
		w, err := t.q.PutWebhook(t.ctx, queue.Webhook{Name: fmt.Sprintf("webhook %d", i)})
		t.ok("PutWebhook", err)
		e := t.entry(w.ID)
		e.Created = time.Now().Add(-2 * retention) // it is old, and it waits
		t.accept(e)
		t.until(time.Now().Add(rand.N(20 * time.Millisecond))) //nolint:gosec // random, not secret
		if i%2 == 0 {
			_, err = t.q.DeleteWebhook(t.ctx, w.ID, w.Revision)
		} else {
			w.Expires = true
			_, err = t.q.PutWebhook(t.ctx, w)
		}
		t.ok("deleting or parking a webhook", err)
	}
	stop()
	busy.Wait()
	t.eventually("every event goes", func() string {
		if n := t.q.Stats(t.ctx).Events; n > 0 {
			return fmt.Sprintf("%d of %d that waited are left", n, rounds)
		}
		return ""
	})
}

// activitiesGoAfterTheRetention: the activity log does not grow without bound.
func activitiesGoAfterTheRetention(t *trial) {
	retention := t.h.Retention
	t = t.within(queue.Limits{Retention: retention})
	at := time.Now()
	t.ok("AppendActivity", t.q.AppendActivity(t.ctx, queue.Activity{At: at, Data: []byte("first")}))
	if n := len(t.allActivities(10)); n != 1 && time.Since(at) < retention {
		t.Errorf("%d activities, want the one just recorded", n)
	}
	t.eventually("old activities go", func() string {
		if n := len(t.allActivities(10)); n > 0 {
			return fmt.Sprintf("%d are there", n)
		}
		return ""
	})
	if early := time.Until(at.Add(retention)); early > 0 {
		t.Errorf("an activity is gone %v before its time", early)
	}
	t.ok("AppendActivity", t.q.AppendActivity(t.ctx, queue.Activity{At: time.Now(), Data: []byte("second")}))
	t.eventually("newer activities go", func() string {
		if n := len(t.allActivities(10)); n > 0 {
			return fmt.Sprintf("%d are there", n)
		}
		return ""
	})
}

// limitsCanChange: an open queue that implements queue.Limited accepts new limits.
func limitsCanChange(t *trial) {
	retention := t.h.Retention
	t = t.within(queue.Limits{Retention: time.Hour})
	q, ok := t.q.(queue.Limited)
	if !ok {
		return
	}
	e := t.enqueue()
	t.until(e.Created.Add(2 * retention))
	t.stays("an event younger than an hour", e.ID)
	q.SetLimits(queue.Limits{Retention: retention})
	t.goesAfter(time.Now(), "an event older than the new retention", e.ID)
	t.enqueue() // so that the queue is not empty
	q.SetLimits(queue.Limits{Retention: time.Hour, MaxDisk: 1})
	_, err := t.q.Enqueue(t.ctx, t.entry())
	if err == nil { // the first event may have been removed to make room
		_, err = t.q.Enqueue(t.ctx, t.entry())
	}
	t.is("Enqueue at the new max_disk", err, queue.ErrFull)
	q.SetLimits(queue.Limits{Retention: time.Hour})
	t.enqueue()
}

// Sizes in the subtests of max_disk.
const (
	padBytes = 48 << 10
	// leastKept is the share of max_disk that finished events must still use after the
	// engine made room. The rest is for what an engine stores besides events.
	leastKept = 0.7
)

// padded returns an entry that takes space and does not compress.
func (t *trial) padded(rnd *rand.ChaCha8, ws ...queue.WebhookID) queue.Entry {
	e := t.entry(ws...)
	e.Body = make([]byte, padBytes)
	_, _ = rnd.Read(e.Body)
	return e
}

// evictionTakesTheOldestAndNoMore: near max_disk, finished events are removed early,
// oldest first and no more than necessary. Events that wait stay. The same holds after
// the queue is opened again.
func evictionTakesTheOldestAndNoMore(t *trial) {
	diskBytes := t.h.MaxDisk
	t = t.within(queue.Limits{Retention: time.Hour, MaxDisk: diskBytes})
	rnd := rand.NewChaCha8([32]byte{1})
	w := t.webhook("w") // no lane is opened
	waits := t.accept(t.padded(rnd, w))
	keyed := t.padded(rnd)
	keyed.Key, keyed.Answer = key("k", 1), []byte("the first answer")
	first := t.accept(keyed)
	order := []queue.EventID{waits.ID, first.ID} // in order of acceptance
	fill := func(until func() bool) {
		t.Helper()
		for n := 0; !until(); n++ {
			if int64(n) > 4*diskBytes/padBytes {
				t.Fatalf("nothing goes of %d bytes, where %d may be", t.q.Stats(t.ctx).Events*padBytes, diskBytes)
			}
			r, err := t.q.Enqueue(t.ctx, t.padded(rnd))
			if err == nil {
				order = append(order, r.Event.ID)
			}
			if errors.Is(err, queue.ErrFull) {
				t.until(time.Now().Add(100 * time.Millisecond))
			} else {
				t.ok("Enqueue", err)
			}
		}
	}
	fill(func() bool { return t.isGone(first.ID) })
	for range 2 {
		// An engine that counts the same excess again and again has removed everything
		// by now.
		t.until(time.Now().Add(3 * time.Second))
		left := t.allEvents(queue.EventQuery{Limit: 1000})
		if n := len(left) * padBytes; float64(n) < leastKept*float64(diskBytes) {
			t.Fatalf("finished events of %d bytes are left where %d may be", n, diskBytes)
		}
		t.stays("an event that waits", waits.ID)
		t.outlived(keyed)
		kept := reversed(left[:len(left)-1]) // without the oldest, which waits
		sameIDs(t, "the finished events that are left", idsOf(kept, eventID), order[len(order)-len(kept):])
		t.reopen()
	}
	// The same holds when more events come.
	left := t.allEvents(queue.EventQuery{Limit: 1000})
	fill(func() bool { return t.isGone(left[len(left)-2].ID) })
	t.until(time.Now().Add(2 * time.Second))
	if n := t.q.Stats(t.ctx).Events * padBytes; float64(n) < leastKept*float64(diskBytes) {
		t.Fatalf("finished events of %d bytes are left where %d may be", n, diskBytes)
	}
	t.stays("an event that waits", waits.ID)
}

// fullQueueKeepsWhatWaits: at max_disk Enqueue returns ErrFull and no waiting delivery
// is dropped.
func fullQueueKeepsWhatWaits(t *trial) {
	diskBytes := t.h.MaxDisk
	t = t.within(queue.Limits{Retention: time.Hour, MaxDisk: diskBytes})
	rnd := rand.NewChaCha8([32]byte{2})
	w := t.webhook("w")
	var err error
	n := int64(0)
	for ; err == nil && n < 4*diskBytes/padBytes; n++ {
		_, err = t.q.Enqueue(t.ctx, t.padded(rnd, w))
	}
	t.is("Enqueue at max_disk", err, queue.ErrFull)
	t.is("Health at max_disk", t.q.Health(), queue.ErrFull)
	t.until(time.Now().Add(2 * time.Second))
	equal(t, "how many events there are", t.q.Stats(t.ctx).Events, n-1)
	t.counts(w, queue.Counts{Pending: n - 1})
}
