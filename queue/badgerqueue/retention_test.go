package badgerqueue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/layout"
)

// eventuallyWithin is how long what must happen may take on a busy machine: it
// costs a test that passes nothing.
const eventuallyWithin = 3 * time.Minute

// eventually polls until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(eventuallyWithin); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", eventuallyWithin, what)
		}
	}
}

func enqueue(t testing.TB, s *Store, e queue.Entry) queue.Event {
	t.Helper()
	r, err := s.Enqueue(context.Background(), e)
	if err != nil {
		t.Fatal(err)
	}
	return r.Event
}

func gone(t *testing.T, s *Store, id queue.EventID) bool {
	t.Helper()
	_, err := s.Event(context.Background(), id)
	if err != nil && !errors.Is(err, queue.ErrNotFound) {
		t.Fatal(err)
	}
	return err != nil
}

// keysLeft counts the keys of a prefix.
func keysLeft(t *testing.T, s *Store, prefix byte) (n int) {
	t.Helper()
	if err := s.view(t.Context(), func(txn *badger.Txn) error {
		scanKeys(txn, []byte{prefix}, nil, func([]byte) bool { n++; return true })
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestRetentionCountsFromTheEndAndSparesWhatWaits: a delivered event goes after
// its time with everything that belongs to it, one that waits stays however old
// it is, and goes after its own end.
func TestRetentionCountsFromTheEndAndSparesWhatWaits(t *testing.T) {
	t.Parallel()
	const retention = 400 * time.Millisecond
	s := openAt(t, Options{Path: t.TempDir(), Retention: retention})
	w := newWebhook(t, s, "w")
	l, err := s.Lane(w, queue.LaneOptions{MaxInFlight: 2})
	if err != nil {
		t.Fatal(err)
	}
	slow := enqueue(t, s, entry(1, w))
	held, err := l.Next(context.Background(), 1)
	if err != nil {
		t.Fatal(err)
	}
	quick := enqueue(t, s, entry(2, w))
	done, err := l.Next(context.Background(), 1)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := done[0].Ack(queue.Attempt{At: time.Now(), Status: 200}); err != nil {
		t.Fatal(err)
	}
	unaddressed := enqueue(t, s, entry(3))
	eventually(t, "the delivered event goes", func() bool { return gone(t, s, quick.ID) })
	if took := time.Since(start); took < retention {
		t.Errorf("gone after %v, retention is %v", took, retention)
	}
	eventually(t, "the event nobody wanted goes", func() bool { return gone(t, s, unaddressed.ID) })
	if gone(t, s, slow.ID) {
		t.Fatal("an event that waits was removed")
	}
	if err := held[0].Dead(queue.Attempt{At: time.Now(), Status: 500}); err != nil {
		t.Fatal(err)
	}
	ended := time.Now()
	eventually(t, "the straggler goes", func() bool { return gone(t, s, slow.ID) })
	if took := time.Since(ended); took < retention {
		t.Errorf("the straggler went %v after its end, retention is %v", took, retention)
	}
	for _, prefix := range []byte{layout.PrefixEvent, layout.PrefixDeliveries, layout.PrefixWaiting, layout.PrefixAttempt, layout.PrefixFeedback, layout.PrefixEnded} {
		eventually(t, fmt.Sprintf("no key %c is left", prefix), func() bool { return keysLeft(t, s, prefix) == 0 })
	}
	if st := s.Stats(context.Background()); st.Events != 0 || st.Webhooks[w].Counts != (queue.Counts{}) {
		t.Errorf("an empty store counts %+v", st)
	}
}

// TestParkedAndDeletedWebhooksLetGo: deliveries that wait for a parked webhook
// expire, those of a deleted one end at once and leave no key behind.
func TestParkedAndDeletedWebhooksLetGo(t *testing.T) {
	t.Parallel()
	s := openAt(t, Options{Path: t.TempDir(), Retention: 200 * time.Millisecond})
	ctx := context.Background()
	parked, err := s.PutWebhook(ctx, queue.Webhook{Name: "parked"})
	if err != nil {
		t.Fatal(err)
	}
	deleted, err := s.PutWebhook(ctx, queue.Webhook{Name: "deleted"})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []queue.Webhook{parked, deleted} {
		l, err := s.Lane(w.ID, queue.LaneOptions{})
		if err != nil {
			t.Fatal(err)
		}
		enqueue(t, s, entry(int(w.ID), w.ID))
		leases, err := l.Next(ctx, 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := leases[0].Retry(time.Now().Add(time.Hour), queue.Attempt{At: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "both wait", func() bool { return keysLeft(t, s, layout.PrefixWaiting) == 2 })
	time.Sleep(300 * time.Millisecond) // longer than the retention
	if n := s.Stats(context.Background()).Events; n != 2 {
		t.Fatalf("%d events, want both that wait", n)
	}
	parked.Expires = true
	if _, err := s.PutWebhook(ctx, parked); err != nil {
		t.Fatal(err)
	}
	n, err := s.DeleteWebhook(ctx, deleted.ID, deleted.Revision)
	if err != nil || n != 1 {
		t.Fatalf("deleting ended %d deliveries, %v; want 1", n, err)
	}
	eventually(t, "both events go", func() bool { return s.Stats(context.Background()).Events == 0 })
	eventually(t, "no waiting key is left", func() bool { return keysLeft(t, s, layout.PrefixWaiting) == 0 })
}

// TestMaxDiskEvictsFinishedEventsAndThenRefuses: near the bound finished events
// go before their time, oldest first; what waits is kept, and at the bound
// intake is refused.
func TestMaxDiskEvictsFinishedEventsAndThenRefuses(t *testing.T) {
	t.Parallel()
	s := openAt(t, Options{Path: t.TempDir(), MaxDisk: 24 << 20})
	w := newWebhook(t, s, "w") // its lane is never opened: all of it waits
	first := enqueue(t, s, entry(0))
	waits := enqueue(t, s, entry(1, w))
	pad := make([]byte, 90<<10) // random: it must not compress
	_, _ = rand.NewChaCha8([32]byte{}).Read(pad)
	var err error
	for i := 2; i < 2000 && err == nil; i++ {
		e := entry(i, w)
		e.Body = pad
		_, err = s.Enqueue(context.Background(), e)
	}
	if !errors.Is(err, queue.ErrFull) {
		t.Fatalf("a store over max_disk answers %v", err)
	}
	if err := s.Health(); !errors.Is(err, queue.ErrFull) {
		t.Errorf("health says %v", err)
	}
	more := 2000
	eventually(t, "the finished event goes early", func() bool {
		// What was written twice, to a log and to a table, is soon there once: stay at the bound.
		e := entry(more, w)
		more++
		e.Body = pad
		_, _ = s.Enqueue(context.Background(), e)
		return gone(t, s, first.ID)
	})
	if gone(t, s, waits.ID) {
		t.Error("an event that waits was dropped")
	}
}

// TestNoEventEscapesTheSweep: deliveries end while the sweep passes their
// events, each in the moment between its look at them and its commit in some
// round or other; every event is removed all the same.
func TestNoEventEscapesTheSweep(t *testing.T) {
	t.Parallel()
	resting := defaultBounds
	resting.sweep = time.Hour // the sweep is this test's, and there is one at a time
	s, err := open(t.Context(), Options{Path: t.TempDir(), Retention: time.Nanosecond}, resting)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	w := newWebhook(t, s, "w")
	l, err := s.Lane(w, queue.LaneOptions{MaxInFlight: 64})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		events := 1000 * max(1, 3*soak())
		for i, left := 0, events; left > 0; {
			for range 8 {
				if i++; i <= events {
					enqueue(t, s, entry(i, w))
				}
			}
			leases, err := l.Next(context.Background(), 64)
			if err != nil {
				t.Error(err)
				return
			}
			for _, lease := range leases {
				if err := lease.Ack(queue.Attempt{At: time.Now(), Status: 200}); err != nil {
					t.Error(err)
				}
				left--
			}
		}
	}()
	for sweeping := true; sweeping; {
		select {
		case <-done:
			sweeping = false
		default:
		}
		if _, err := s.sweepOnce(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "every event is removed", func() bool {
		if _, err := s.sweepOnce(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		return s.Stats(context.Background()).Events == 0
	})
	checkCounters(t, s)
}
