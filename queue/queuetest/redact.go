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

// redactedTo is what the suite's redaction makes of every document.
const redactedTo = `{"redacted":true}`

// redaction are limits that redact what has ended for the retention of the harness.
func (t *trial) redaction() queue.Limits {
	return queue.Limits{Retention: time.Hour, RedactAfter: t.h.Retention, Redact: func([]byte) []byte { return []byte(redactedTo) }}
}

// redactionLeavesWhatIsCounted: documents and bodies go, and everything else stays. What
// was redacted is neither delivered again nor changed.
func redactionLeavesWhatIsCounted(t *trial) {
	t = t.within(t.redaction())
	t.limited().SetLimits(t.redaction())
	w := t.webhook("w")
	l := t.lane(w, 8)
	e := t.entry(w)
	e.Origin, e.Answer = [32]byte{7}, []byte("the answer")
	created := t.accept(e)
	echo := made(500)
	echo.ResponseBody, echo.RequestBody, echo.ResponseHeaders = []byte("echo"), []byte("sent"), []queue.Header{{Name: "X-Echo", Value: "echo"}}
	t.ok("Retry", t.one(l).Retry(time.Now(), echo))
	echo.Status, echo.Error, echo.ErrorClass = 200, "", ""
	t.ok("Ack", t.one(l).Ack(echo))
	first := t.accept(t.update(created, w))
	t.ok("Ack", t.one(l).Ack(echo))
	waits := t.enqueue(w)
	lease := t.one(l)
	untouched := t.enqueue() // of which nobody gets anything
	check := func(when string) {
		t.Helper()
		t.eventually(when+", what has ended is redacted", func() string {
			for _, id := range []queue.EventID{created.ID, first.ID, untouched.ID} {
				if got, err := t.q.Event(t.ctx, id); err != nil || !got.Redacted || string(got.Body) != redactedTo {
					return fmt.Sprintf("%s is %q, redacted %v, %v", id, got.Body, got.Redacted, err)
				}
			}
			return ""
		})
		got := t.latest(created.Feedback)
		equal(t, when+": the latest event", got.ID, first.ID)
		equal(t, when+": Redacted", got.Redacted, true)
		as := t.attempts(queue.DeliveryID{Event: created.ID, Webhook: w})
		equal(t, when+": how many attempts are kept", len(as), 2)
		for _, a := range as {
			if len(a.ResponseBody)+len(a.RequestBody)+len(a.ResponseHeaders) > 0 || a.Status == 0 {
				t.Errorf("%s: a redacted attempt is %+v", when, a)
			}
		}
		t.is(when+", Requeue of what was redacted", t.q.Requeue(t.ctx, queue.DeliveryID{Event: first.ID, Webhook: w}, time.Now()), queue.ErrRedacted)
		_, err := t.q.Enqueue(t.ctx, t.update(first, w))
		t.is(when+", Enqueue that replaces what was redacted", err, queue.ErrRedacted)
		t.gets(when+", a repeat", e, "the answer")
		equal(t, when+": the number of events", t.q.Stats(t.ctx).Events, 4)
	}
	check("at first")
	equal(t, "the document of what waits", string(t.event(waits.ID).Body), string(waits.Body))
	t.ok("Ack", lease.Ack(made(200)))
	t.counts(w, queue.Counts{Delivered: 3})
	t.eventually("what has ended behind the others is redacted too", func() string {
		if got := t.event(waits.ID); !got.Redacted {
			return "it is not"
		}
		return ""
	})
	t.reopenWithin(t.redaction())
	check("reopened")
	t.counts(w, queue.Counts{Delivered: 3})
}

// event reads an event.
func (t *trial) event(id queue.EventID) queue.Event {
	t.Helper()
	e, err := t.q.Event(t.ctx, id)
	t.ok("Event", err)
	return e
}

// reopenWithin is reopen with limits.
func (t *trial) reopenWithin(l queue.Limits) {
	t.Helper()
	t.reopen()
	t.limited().SetLimits(l)
}

func (t *trial) limited() queue.Limited {
	t.Helper()
	q, ok := t.q.(queue.Limited)
	if !ok {
		t.Fatalf("%T has no limits that can change", t.q)
	}
	return q
}

// redactionEndsWhatIsParked: what waits for a webhook that is gone fails when it is
// redacted, and the webhook gets nothing of it when it comes back.
func redactionEndsWhatIsParked(t *trial) {
	t = t.within(t.redaction())
	t.limited().SetLimits(t.redaction())
	w, err := t.q.PutWebhook(t.ctx, queue.Webhook{Name: "w", Expires: true})
	t.ok("PutWebhook", err)
	e := t.enqueue(w.ID)
	id := queue.DeliveryID{Event: e.ID, Webhook: w.ID}
	t.becomes(id, queue.Failed)
	t.eventually("its event is redacted", func() string {
		if got := t.event(e.ID); !got.Redacted {
			return fmt.Sprintf("it is %q", got.Body)
		}
		return ""
	})
	w.Expires = false
	_, err = t.q.PutWebhook(t.ctx, w)
	t.ok("PutWebhook", err)
	t.nothing(t.lane(w.ID, 8), "it was redacted")
	t.counts(w.ID, queue.Counts{Failed: 1})
}

// redactionHoldsAgainstEverybody: others create, update, deliver and requeue what is being
// redacted. Nothing redacted is handed out, and in the end the counts are those of the
// deliveries.
func redactionHoldsAgainstEverybody(t *trial) {
	t = t.within(t.redaction())
	t.limited().SetLimits(t.redaction())
	webhooks := []queue.WebhookID{t.webhook("a"), t.webhook("b")}
	ctx, stop := context.WithCancel(t.ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	for n, w := range webhooks {
		l := t.lane(w, 8)
		running.Go(func() {
			rnd := rand.New(rand.NewPCG(4, uint64(n))) //nolint:gosec // random, not secret
			for {
				leases, err := l.Next(ctx, 4)
				if err != nil {
					return
				}
				for _, lease := range leases {
					if lease.Event.Redacted || string(lease.Event.Body) == redactedTo {
						t.Errorf("%s is handed out, and it was redacted", lease.Delivery.ID)
					}
					switch attempt := made(500); {
					case rnd.IntN(4) == 0 && lease.Delivery.Rung < 2:
						_ = lease.Retry(time.Now().Add(5*time.Millisecond), attempt)
					case rnd.IntN(8) == 0:
						_ = lease.Dead(attempt)
					default:
						_ = lease.Ack(made(200))
					}
				}
			}
		})
	}
	const events = 60
	ids := make(chan queue.EventID, 2*events)
	running.Go(func() {
		defer close(ids)
		for range events {
			created, err := t.q.Enqueue(ctx, t.entry(webhooks...))
			if err != nil {
				t.Errorf("Enqueue: %v", err)
				return
			}
			ids <- created.Event.ID
			rest(ctx)
			updated, err := t.q.Enqueue(ctx, t.update(created.Event, webhooks[0]))
			if err == nil {
				ids <- updated.Event.ID
			} else if !errors.Is(err, queue.ErrRedacted) && !errors.Is(err, queue.ErrConflict) {
				t.Errorf("Enqueue of an update: %v", err)
			}
		}
	})
	known := make(map[queue.EventID]bool)
	rnd := rand.New(rand.NewPCG(5, 0)) //nolint:gosec // random, not secret
	for until := time.Now().Add(3 * t.h.Retention); time.Now().Before(until); {
		select {
		case id, more := <-ids:
			if more {
				known[id] = true
			} else {
				ids = nil
			}
		default:
		}
		for id := range known { // any one
			err := t.q.Requeue(ctx, queue.DeliveryID{Event: id, Webhook: webhooks[rnd.IntN(2)]}, time.Now())
			if err != nil && !errors.Is(err, queue.ErrConflict) && !errors.Is(err, queue.ErrRedacted) {
				t.Errorf("Requeue of %s: %v", id, err)
			}
			break
		}
		rest(ctx)
	}
	t.eventually("everything is redacted", func() string {
		for _, e := range t.allEvents(queue.EventQuery{}) {
			if !e.Redacted || string(e.Body) != redactedTo {
				return fmt.Sprintf("%s is %q", e.ID, e.Body)
			}
		}
		return ""
	})
	stop()
	running.Wait()
	listed := make(map[queue.WebhookID]queue.Counts)
	for _, d := range t.allDeliveries(queue.DeliveryQuery{}) {
		c := listed[d.ID.Webhook]
		c.Count(d.State, 1)
		listed[d.ID.Webhook] = c
		if as := t.attempts(d.ID); len(as) != d.Attempts {
			t.Errorf("%s has %d attempts, and %d are kept", d.ID, d.Attempts, len(as))
		}
	}
	for _, w := range webhooks {
		t.counts(w, listed[w])
	}
	equal(t, "the number of events", t.q.Stats(t.ctx).Events, int64(len(t.allEvents(queue.EventQuery{}))))
	t.reopenWithin(t.redaction())
	for _, w := range webhooks {
		t.counts(w, listed[w])
	}
}

// redactedGoesAfterTheRetention: what was redacted is removed in its turn, and can be
// erased before.
func redactedGoesAfterTheRetention(t *trial) {
	l := t.redaction()
	l.Retention = 10 * t.h.Retention
	t = t.within(l)
	t.limited().SetLimits(l)
	w := t.webhook("w")
	lane := t.lane(w, 8)
	created := t.enqueue(w)
	t.ok("Ack", t.one(lane).Ack(made(200)))
	updated := t.accept(t.update(created, w))
	t.ok("Retry", t.one(lane).Retry(time.Now(), made(500)))
	t.ok("Ack", t.one(lane).Ack(made(200)))
	other := t.enqueue(w)
	t.ok("Ack", t.one(lane).Ack(made(200)))
	alone := t.enqueue() // nobody gets it
	t.eventually("all are redacted", func() string {
		for _, id := range []queue.EventID{created.ID, updated.ID, other.ID, alone.ID} {
			if !t.event(id).Redacted {
				return fmt.Sprintf("%s is not", id)
			}
		}
		return ""
	})
	sameIDs(t, "the events", idsOf(t.allEvents(queue.EventQuery{}), eventID), []queue.EventID{alone.ID, other.ID, updated.ID, created.ID})
	erased := int64(0)
	if t.h.Erases {
		sum := t.erase(other.Feedback)
		equal(t, "what was erased", sum, queue.Erased{Feedbacks: 1, Events: 1, Deliveries: 1, Attempts: 1})
		t.isErased("after redaction", other.Feedback, other)
		erased = 1
	}
	t.counts(w, queue.Counts{Delivered: 3 - erased})
	t.eventually("all are removed", func() string {
		_, err1 := t.q.Event(t.ctx, created.ID)
		_, err2 := t.q.Event(t.ctx, updated.ID)
		if !errors.Is(err1, queue.ErrNotFound) || !errors.Is(err2, queue.ErrNotFound) {
			return fmt.Sprintf("%v, %v", err1, err2)
		}
		return ""
	})
	t.eventually("nothing is counted", func() string {
		if s := t.q.Stats(t.ctx); s.Events != 0 || s.Webhooks[w].Counts != (queue.Counts{}) {
			return fmt.Sprintf("%d events, %+v", s.Events, s.Webhooks[w].Counts)
		}
		return ""
	})
	e := t.entry(w)
	e.Feedback = created.Feedback
	again := t.accept(e) // nothing holds its id
	equal(t, "what is handed out", t.one(lane).Event.ID, again.ID)
}
