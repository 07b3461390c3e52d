package queuetest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/userhero/relay/queue"
)

// settlement is one way to settle, with its effect on a fresh delivery.
type settlement struct {
	name     string
	do       func(*queue.Lease) error
	state    queue.State
	attempts int
}

// settlements are the four ways. No delivery comes again during the test.
var settlements = [...]settlement{
	{"Ack", func(l *queue.Lease) error { return l.Ack(made(200)) }, queue.Delivered, 1},
	{"Retry", func(l *queue.Lease) error { return l.Retry(time.Now().Add(time.Hour), made(500)) }, queue.Retrying, 1},
	{"Defer", func(l *queue.Lease) error { return l.Defer(time.Now().Add(time.Hour)) }, queue.Pending, 0},
	{"Dead", func(l *queue.Lease) error { return l.Dead(made(500)) }, queue.Failed, 1},
}

func leaseIsSettledOnce(t *trial) {
	w := t.webhook("w")
	l := t.lane(w, 4)
	type outcome struct {
		id   queue.DeliveryID
		want settlement
	}
	var outcomes []outcome
	for _, first := range settlements {
		for _, second := range settlements {
			t.enqueue(w)
			lease := t.one(l)
			equal(t, "Lost before "+first.name, lease.Lost(), false)
			t.ok(first.name, first.do(lease))
			equal(t, "Lost after "+first.name, lease.Lost(), true)
			t.is(second.name+" after "+first.name, second.do(lease), queue.ErrLeaseLost)
			outcomes = append(outcomes, outcome{lease.Delivery.ID, first})
		}
	}
	t.counts(w, queue.Counts{Pending: 4, Retrying: 4, Delivered: 4, Failed: 4})
	for _, o := range outcomes {
		d := t.becomes(o.id, o.want.state)
		equal(t, "the attempts after "+o.want.name, d.Attempts, o.want.attempts)
		equal(t, "the attempts kept after "+o.want.name, len(t.attempts(o.id)), o.want.attempts)
	}
}

// settledLeaseHasNoPowerOverTheNext: if a delivery is leased again, the old lease
// cannot settle it.
func settledLeaseHasNoPowerOverTheNext(t *trial) {
	w := t.webhook("w")
	l := t.lane(w, 4)
	for name, again := range map[string]func(*queue.Lease) error{
		"Defer": func(l *queue.Lease) error { return l.Defer(time.Time{}) },
		"Retry": func(l *queue.Lease) error { return l.Retry(time.Now(), made(500)) },
	} {
		e := t.enqueue(w)
		old := t.one(l)
		t.ok(name, again(old))
		lease := t.one(l)
		equal(t, "the delivery that is out again", lease.Event.ID, e.ID)
		for _, s := range settlements {
			t.is(fmt.Sprintf("%s of a lease that was settled by %s, while its delivery is out again", s.name, name), s.do(old), queue.ErrLeaseLost)
		}
		t.ok("Ack of the new lease", lease.Ack(made(200)))
		t.becomes(lease.Delivery.ID, queue.Delivered)
	}
}

func concurrentSettlesLetOneWin(t *trial) {
	w := t.webhook("w")
	l := t.lane(w, 4)
	for range 20 {
		t.enqueue(w)
		lease := t.one(l)
		var won atomic.Int32
		var wg sync.WaitGroup
		gate := make(chan struct{})
		for i := range 8 {
			wg.Go(func() {
				<-gate
				switch err := settlements[i%len(settlements)].do(lease); {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, queue.ErrLeaseLost):
					t.Errorf("settling concurrently: %v", err)
				}
			})
		}
		close(gate)
		wg.Wait()
		equal(t, "how many settled one lease", won.Load(), 1)
	}
}

func ackDelivers(t *trial) {
	w := t.webhook("w")
	e := t.enqueue(w)
	l := t.lane(w, 1)
	lease := t.one(l)
	before := time.Now()
	t.ok("Ack", lease.Ack(made(204)))
	d := t.becomes(lease.Delivery.ID, queue.Delivered)
	t.ended(d, before)
	equal(t, "its attempts", d.Attempts, 1)
	equal(t, "its rung", d.Rung, 0)
	as := t.attempts(d.ID)
	if len(as) != 1 || as[0].Number != 1 || as[0].Status != 204 {
		t.Errorf("its attempts are %+v, want one, number 1, status 204", as)
	}
	t.nothing(l, "the only delivery was acknowledged")
	if _, err := t.q.Event(t.ctx, e.ID); err != nil {
		t.Errorf("the event of a delivered delivery: %v", err)
	}
	t.counts(w, queue.Counts{Delivered: 1})
}

// ended checks the times of a delivery that ended after before.
func (t *trial) ended(d queue.Delivery, before time.Time) {
	t.Helper()
	const slack = 5 * time.Millisecond // for clocks that are read differently
	if d.Ended.Before(before.Add(-slack)) || d.Ended.After(time.Now().Add(slack)) {
		t.Errorf("a delivery that was %s between %v and now ended at %v", d.State, before, d.Ended)
	}
	equal(t, "the due time of a delivery that has ended", d.Due, time.Time{})
}

func deadFailsAndKeeps(t *trial) {
	w := t.webhook("w")
	t.enqueue(w)
	l := t.lane(w, 1)
	lease := t.one(l)
	before := time.Now()
	t.ok("Dead", lease.Dead(made(500)))
	d := t.becomes(lease.Delivery.ID, queue.Failed)
	t.ended(d, before)
	equal(t, "its attempts", d.Attempts, 1)
	t.nothing(l, "the only delivery failed")
	t.counts(w, queue.Counts{Failed: 1})
	t.reopen()
	d = t.delivery(lease.Delivery.ID)
	equal(t, "its state after reopening", d.State, queue.Failed)
	t.nothing(t.lane(w, 1), "the only delivery failed")
}

func retryTakesTheNextRung(t *trial) {
	w := t.webhook("w")
	t.enqueue(w)
	l := t.lane(w, 1)
	for rung := range 5 {
		lease := t.one(l)
		equal(t, "the rung of the lease", lease.Delivery.Rung, rung)
		equal(t, "its attempts", lease.Delivery.Attempts, rung)
		at := time.Now().Add(60 * time.Millisecond)
		t.ok("Retry", lease.Retry(at, made(500+rung)))
		t.eventually("the retry is stored", func() string {
			d := t.delivery(lease.Delivery.ID)
			if d.State != queue.Retrying || d.Rung != rung+1 || d.Attempts != rung+1 || d.Due.Sub(at).Abs() > 5*time.Millisecond || !d.Ended.IsZero() {
				return fmt.Sprintf("it is %s, rung %d, attempts %d, due %s, ended %v, want retrying, %d, %d, %s, never",
					d.State, d.Rung, d.Attempts, d.Due.Format(clockFormat), d.Ended, rung+1, rung+1, at.UTC().Format(clockFormat))
			}
			return ""
		})
	}
	as := t.attempts(t.one(l).Delivery.ID)
	for i, a := range as {
		equal(t, "the number of an attempt", a.Number, i+1)
		equal(t, "its status", a.Status, 500+i)
	}
	equal(t, "how many attempts there are", len(as), 5)
}

func deferUsesNoAttempt(t *trial) {
	w := t.webhook("w")
	t.enqueue(w)
	l := t.lane(w, 1)
	for rung := range 3 {
		for i := range 4 {
			lease := t.one(l)
			d := lease.Delivery
			equal(t, "the attempts after Defer", d.Attempts, rung)
			equal(t, "the rung after Defer", d.Rung, rung)
			want := queue.Retrying
			if rung == 0 {
				want = queue.Pending
			}
			equal(t, "the state after Defer", d.State, want)
			at := time.Time{}
			if i%2 == 1 {
				at = time.Now().Add(5 * time.Millisecond)
			}
			t.ok("Defer", lease.Defer(at))
		}
		t.ok("Retry", t.one(l).Retry(time.Now(), made(500)))
	}
	equal(t, "the attempts kept", len(t.attempts(t.one(l).Delivery.ID)), 3)
}

func deferAtOnceComesFirst(t *trial) {
	w := t.webhook("w")
	events := t.several(5, w)
	l := t.lane(w, 5)
	first := t.leases(l, 2)
	t.ok("Defer", first[0].Defer(time.Time{}))
	again := t.one(l)
	equal(t, "what comes after Defer at once", again.Event.ID, events[0].ID)
	t.ok("Defer to a time that has passed", again.Defer(time.Now().Add(-time.Second)))
	equal(t, "what comes after Defer to a time that has passed", t.one(l).Event.ID, events[0].ID)
	sameIDs(t, "what comes then", idsOf(t.leases(l, 3), leasedEvent), idsOf(events[2:], eventID))
}

func deferWaitsForItsTime(t *trial) {
	w := t.webhook("w")
	events := t.several(2, w)
	l := t.lane(w, 2)
	deferred := t.one(l)
	at := time.Now().Add(100 * time.Millisecond)
	t.ok("Defer", deferred.Defer(at))
	for range events {
		lease := t.one(l)
		if lease.Event.ID == events[1].ID { // the first event, if the machine is fast
			t.ok("Ack", lease.Ack(made(200)))
			continue
		}
		deferred = lease
		if early := time.Until(at); early > 0 {
			t.Errorf("a deferred delivery comes %v before its time", early)
		}
	}
	// The time survives lane and process.
	t.ok("Defer", deferred.Defer(time.Now().Add(time.Hour)))
	t.reopen()
	d := t.delivery(deferred.Delivery.ID)
	if left := time.Until(d.Due); left < 50*time.Minute || left > 61*time.Minute {
		t.Errorf("a delivery deferred for an hour is due in %v after reopening", left)
	}
	equal(t, "its state", d.State, queue.Pending)
	t.nothing(t.lane(w, 2), "the delivery is deferred for an hour")
}

func attemptsAreKeptWhole(t *trial) {
	w := t.webhook("w")
	t.enqueue(w)
	l := t.lane(w, 1)
	lease := t.one(l)
	at := time.Date(2026, 1, 7, 15, 30, 0, 123_456_789, time.UTC)
	want := queue.Attempt{
		Number: 77, // the engine sets it
		At:     at, Duration: 1234567 * time.Microsecond,
		Status: 503, Error: "status 503 \u2028\x00", ErrorClass: "status",
		RequestHeaders:  []queue.Header{{Name: "A", Value: "1"}, {Name: "A", Value: ""}, {Name: "B", Value: "ü"}},
		ResponseHeaders: []queue.Header{{Name: "Retry-After", Value: "1"}},
		RequestBody:     bytes.Repeat([]byte{255, 0}, 64<<10),
		ResponseBody:    bytes.Repeat([]byte{0, 255}, 8<<10),
		TraceID:         [16]byte{1, 15: 2}, SpanID: [8]byte{3, 7: 4}, TraceFlags: 3,
		Next: at.Add(time.Minute),
	}
	t.ok("Retry", lease.Retry(time.Now(), want))
	lease = t.one(l)
	bare := queue.Attempt{At: at.Add(time.Hour), Error: "connection refused", ErrorClass: "refused"}
	t.ok("Dead", lease.Dead(bare))
	t.becomes(lease.Delivery.ID, queue.Failed)
	want.Number, bare.Number = 1, 2
	check := func(when string) {
		t.Helper()
		as := t.attempts(lease.Delivery.ID)
		if len(as) != 2 {
			t.Fatalf("%s: there are %d attempts, want 2", when, len(as))
		}
		for i, want := range []queue.Attempt{want, bare} {
			if diff := attemptsDiffer(as[i], want); diff != "" {
				t.Errorf("%s: attempt %d: %s", when, i+1, diff)
			}
		}
	}
	check("at once")
	t.reopen()
	check("after reopening")
}

// attemptsDiffer returns the name of the first field in which two attempts differ.
// Times are stored at least to the microsecond.
func attemptsDiffer(got, want queue.Attempt) string {
	sameTime := func(a, b time.Time) bool {
		return a.IsZero() == b.IsZero() && a.Sub(b).Abs() < time.Microsecond
	}
	for _, m := range []struct {
		name      string
		same      bool
		got, want any
	}{
		{"number", got.Number == want.Number, got.Number, want.Number},
		{"time", sameTime(got.At, want.At), got.At, want.At},
		{"duration", (got.Duration - want.Duration).Abs() < time.Microsecond, got.Duration, want.Duration},
		{"status", got.Status == want.Status, got.Status, want.Status},
		{"error", got.Error == want.Error, got.Error, want.Error},
		{"error class", got.ErrorClass == want.ErrorClass, got.ErrorClass, want.ErrorClass},
		{"request headers", slices.Equal(got.RequestHeaders, want.RequestHeaders), got.RequestHeaders, want.RequestHeaders},
		{"response headers", slices.Equal(got.ResponseHeaders, want.ResponseHeaders), got.ResponseHeaders, want.ResponseHeaders},
		{"request body", bytes.Equal(got.RequestBody, want.RequestBody), len(got.RequestBody), len(want.RequestBody)},
		{"response body", bytes.Equal(got.ResponseBody, want.ResponseBody), len(got.ResponseBody), len(want.ResponseBody)},
		{"trace id", got.TraceID == want.TraceID, got.TraceID, want.TraceID},
		{"span id", got.SpanID == want.SpanID, got.SpanID, want.SpanID},
		{"trace flags", got.TraceFlags == want.TraceFlags, got.TraceFlags, want.TraceFlags},
		{"next", sameTime(got.Next, want.Next), got.Next, want.Next},
	} {
		if !m.same {
			return fmt.Sprintf("the %s is %v, want %v", m.name, m.got, m.want)
		}
	}
	return ""
}
