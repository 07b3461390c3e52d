package badgerqueue

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/layout"
)

// TestAttemptsAreReadWhereverTheyAreKept: with the state of their delivery where
// they are short and the event has few webhooks, else in records of their own;
// also by the next process, and from a salvaged store.
func TestAttemptsAreReadWhereverTheyAreKept(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		webhooks int
		body     int // of the answer
		records  int // of their own
	}{
		"one webhook":           {1, 2, 0},
		"as many as are few":    {maxLogged, 2, 0},
		"one more":              {maxLogged + 1, 2, maxLogged + 1},
		"a long answer":         {1, maxLog, 1},
		"the longest that is":   {2, 16 << 10, 2},
		"an answer without any": {3, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, dir := context.Background(), t.TempDir()
			s := openAt(t, Options{Path: dir})
			var webhooks []queue.WebhookID
			for i := range c.webhooks {
				webhooks = append(webhooks, newWebhook(t, s, fmt.Sprint("w", i)))
			}
			receipt, err := s.Enqueue(ctx, entry(1, webhooks...))
			if err != nil {
				t.Fatal(err)
			}
			delivery := func(w queue.WebhookID) queue.DeliveryID { return queue.DeliveryID{Event: receipt.Event.ID, Webhook: w} }
			attempt := func(w queue.WebhookID) queue.Attempt {
				a := usual(delivery(w).String())
				if a.ResponseBody = bytes.Repeat([]byte("x"), c.body); c.body == 0 {
					a.ResponseBody = nil
				}
				return a
			}
			for _, w := range webhooks {
				lane, err := s.Lane(w, queue.LaneOptions{})
				if err != nil {
					t.Fatal(err)
				}
				leases, err := lane.Next(ctx, 1)
				if err != nil {
					t.Fatal(err)
				}
				if err := leases[0].Ack(attempt(w)); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.commit(ctx, 1, 1, func(*batch) error { return nil }); err != nil { // comes after them
				t.Fatal(err)
			}
			read := func(s *Store) {
				t.Helper()
				for _, w := range webhooks {
					got, err := s.Attempts(ctx, delivery(w))
					if err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], attempt(w)) {
						t.Errorf("%v: %+v", err, got)
					}
				}
				if n := keysLeft(t, s, layout.PrefixAttempt); n != c.records {
					t.Errorf("%d records of attempts, want %d", n, c.records)
				}
				wantNoFindings(t, s)
			}
			read(s)
			if err := s.Close(ctx); err != nil {
				t.Fatal(err)
			}
			saved := filepath.Join(t.TempDir(), "saved")
			r, err := Salvage(ctx, SalvageOptions{From: dir, To: saved})
			if err != nil || r.LostCount > 0 || r.Attempts != int64(c.webhooks) {
				t.Errorf("%v: %+v", err, r)
			}
			read(openAt(t, Options{Path: dir}))
			// A salvaged store goes on with another tag, for new events.
			read(openAt(t, Options{Path: saved}))
		})
	}
}

// TestSalvageDropsALogThatCannotBeRead: the delivery stays, and the new store is
// sound.
func TestSalvageDropsALogThatCannotBeRead(t *testing.T) {
	t.Parallel()
	ctx, dir := context.Background(), t.TempDir()
	s := openAt(t, Options{Path: dir})
	w := newWebhook(t, s, "w")
	if _, err := s.Enqueue(ctx, entry(1, w)); err != nil {
		t.Fatal(err)
	}
	err := s.commit(ctx, 2, 1024, func(b *batch) error {
		ds := deliveries{{webhook: w, state: queue.Delivered, attempts: 1, at: 1, log: []byte{attemptFormat}}}
		return b.set(layout.DeliveriesKey(1), ds.encode(layout.DeliveriesKey(1), layout.Record(0)))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}
	saved := filepath.Join(t.TempDir(), "saved")
	r, err := Salvage(ctx, SalvageOptions{From: dir, To: saved})
	if err != nil || r.LostCount != 1 || r.Deliveries != 1 || r.Attempts != 0 {
		t.Errorf("%v: %+v", err, r)
	}
	wantNoFindings(t, openAt(t, Options{Path: saved}))
}
