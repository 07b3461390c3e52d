package badgerqueue

import (
	"context"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/layout"
	"github.com/userhero/relay/queue/queuetest"
)

// TestTimesAreShownInTheTimeOfDay: what an operator reads agrees with the clock
// on the wall, also after that was put right.
func TestTimesAreShownInTheTimeOfDay(t *testing.T) {
	t.Parallel()
	clock := &queuetest.Clock{}
	clock.Set(-365 * 24 * time.Hour) // as of a machine without a battery
	o := Options{Path: t.TempDir(), Clock: clock}
	s := openAt(t, o)
	w := newWebhook(t, s, "w")
	l, err := s.Lane(w, queue.LaneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var ids []queue.DeliveryID
	for i, settle := range []func(*queue.Lease) error{
		func(l *queue.Lease) error { return l.Retry(time.Now().Add(time.Hour), queue.Attempt{At: time.Now()}) },
		func(l *queue.Lease) error { return l.Ack(queue.Attempt{At: time.Now()}) },
	} {
		enqueue(t, s, entry(i, w))
		leases, err := l.Next(context.Background(), 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := settle(leases[0]); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, leases[0].Delivery.ID)
	}
	check := func(s *Store, when string) {
		t.Helper()
		for i, want := range []time.Time{clock.Wall().Add(time.Hour), clock.Wall()} {
			var d queue.Delivery
			eventually(t, "it is settled", func() bool {
				if d, err = s.Delivery(context.Background(), ids[i]); err != nil {
					t.Fatal(err)
				}
				return d.State != queue.Pending
			})
			shown := d.Due
			if i == 1 {
				shown = d.Ended
			}
			if shown.Sub(want).Abs() > time.Minute {
				t.Errorf("%s a %s delivery shows %s, want %s", when, d.State, shown, want.UTC())
			}
		}
	}
	check(s, "before the clock was put right")
	clock.Set(365 * 24 * time.Hour)
	s.clock.ReadShift() // as the sweep does
	check(s, "after it was put right")
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	check(openAt(t, o), "after a restart")
}

// TestRetentionOutlivesAClockThatWasAhead: events that were accepted while the
// time of day was ahead by a year neither stay for a year nor keep those behind
// them from going.
func TestRetentionOutlivesAClockThatWasAhead(t *testing.T) {
	t.Parallel()
	const retention = 300 * time.Millisecond
	clock := &queuetest.Clock{}
	clock.Set(365 * 24 * time.Hour)
	o := Options{Path: t.TempDir(), Clock: clock, Retention: retention}
	s := openAt(t, o)
	w := newWebhook(t, s, "w")
	ahead := func(n int, ws ...queue.WebhookID) queue.Entry {
		e := entry(n, ws...)
		e.Created = clock.Wall()
		return e
	}
	unaddressed, waits := enqueue(t, s, ahead(1)), enqueue(t, s, ahead(2, w))
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	clock.Set(-365 * 24 * time.Hour)
	s = openAt(t, o)
	after := enqueue(t, s, entry(3))
	eventually(t, "the event behind goes", func() bool { return gone(t, s, after.ID) })
	eventually(t, "the event from ahead goes", func() bool { return gone(t, s, unaddressed.ID) })
	if gone(t, s, waits.ID) {
		t.Fatal("an event that waits was removed")
	}
	l, err := s.Lane(w, queue.LaneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	leases, err := l.Next(context.Background(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := leases[0].Ack(queue.Attempt{At: time.Now()}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the event from ahead that has ended goes", func() bool { return gone(t, s, waits.ID) })
}

// TestStateOfAnOlderBuildIsRead: it ends before the bytes that events take, or with
// the bytes that were removed.
func TestStateOfAnOlderBuildIsRead(t *testing.T) {
	t.Parallel()
	written := layout.State{Seq: 7, Events: 6, Webhook: 5, Noted: 4, Swept: 3, Ended: 2, Live: 1}
	want := written
	want.Live = 0
	rec := written.Encode()
	for _, without := range []int{1, 2} { // live and counted are a byte each
		old := layout.Seal(layout.KeyState, append([]byte(nil), rec[:len(rec)-without]...))
		got, err := layout.DecodeState(old)
		if err != nil || got != want {
			t.Errorf("without %d bytes: %+v, %v; want %+v", without, got, err, want)
		}
	}
}
