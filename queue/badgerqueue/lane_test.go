package badgerqueue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/badgercompat"
	"github.com/userhero/relay/queue/badgerqueue/storeclock"
)

// tiny bounds make every lane overflow, fall behind and read from disk again
// and again.
var tiny = bounds{fresh: 3, freshBytes: 64, pending: maxPending, window: 4, told: 5, scan: 7, memtable: badgercompat.MemTableSize, slow: defaultBounds.slow, sweep: defaultBounds.sweep, reclaim: defaultBounds.reclaim}

// TestEveryDeliveryGoesOutOnceWhateverTheWindows races accepting, leasing,
// settling in every way, requeueing and closing lanes, through windows that
// hold next to nothing. Each delivery must end, having been attempted exactly as
// often as its settlements say, and never be out twice at once.
func TestEveryDeliveryGoesOutOnceWhateverTheWindows(t *testing.T) {
	t.Parallel()
	for _, b := range []bounds{tiny, defaultBounds} {
		t.Run(fmt.Sprintf("window=%d", b.window), func(t *testing.T) {
			t.Parallel()
			testEveryDeliveryGoesOutOnce(t, b)
		})
	}
}

func testEveryDeliveryGoesOutOnce(t *testing.T, b bounds) {
	events := 1000 * max(1, 3*soak())
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	s, err := open(ctx, Options{Path: t.TempDir()}, b)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	webhooks := []queue.WebhookID{newWebhook(t, s, "a"), newWebhook(t, s, "b"), newWebhook(t, s, "c")}

	var wg sync.WaitGroup
	quiet := make(chan struct{}) // closed when nothing more is asked for
	ids := make(chan queue.EventID, events)
	for w := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(w)))
			for i := range events / 8 {
				// Some events are for nobody, some for one, most for all.
				ws := webhooks[:rnd.IntN(len(webhooks)+1)]
				r, err := s.Enqueue(ctx, entry(w*events+i, ws...))
				if err != nil {
					t.Error(err)
					return
				}
				ids <- r.Event.ID
			}
		})
	}
	type account struct {
		out      bool
		attempts int
		ended    int
	}
	var mu sync.Mutex
	accounts := make(map[queue.DeliveryID]*account)
	for i, w := range webhooks {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(2, uint64(i)))
			for {
				l, err := s.Lane(w, queue.LaneOptions{MaxInFlight: 6})
				if err != nil {
					t.Error(err)
					return
				}
				for range 50 + rnd.IntN(500) {
					wait, stop := context.WithTimeout(ctx, 300*time.Millisecond)
					leases, err := l.Next(wait, 1+rnd.IntN(4))
					stop()
					if errors.Is(err, context.DeadlineExceeded) {
						select {
						case <-quiet:
						default:
							continue
						}
						if err := l.Close(); err != nil {
							t.Error(err)
						}
						return // nothing more for this webhook
					}
					if err != nil {
						t.Error(err)
						return
					}
					for _, lease := range leases {
						mu.Lock()
						a := accounts[lease.Delivery.ID]
						if a == nil {
							a = &account{}
							accounts[lease.Delivery.ID] = a
						}
						if a.out {
							t.Errorf("%s is out twice", lease.Delivery.ID)
						}
						if lease.Delivery.Attempts != a.attempts {
							t.Errorf("%s says %d attempts and had %d", lease.Delivery.ID, lease.Delivery.Attempts, a.attempts)
						}
						// What is shown is the time of day, which the store follows in steps.
						if due := lease.Delivery.Due; !due.IsZero() && time.Until(due) > storeclock.ShiftStep {
							t.Errorf("%s is %v early", lease.Delivery.ID, time.Until(due))
						}
						a.out = true
						mu.Unlock()
						settle := func() {
							mu.Lock()
							defer mu.Unlock()
							a.out = false
							var err error
							switch n := rnd.IntN(10); {
							case n < 3:
								err = lease.Retry(time.Now().Add(time.Duration(rnd.IntN(20))*time.Millisecond), queue.Attempt{At: time.Now(), Status: 500})
								a.attempts++
							case n < 4:
								err = lease.Defer(time.Time{})
							case n < 5:
								err = lease.Defer(time.Now().Add(time.Duration(rnd.IntN(5)) * time.Millisecond))
							case n < 6:
								err = lease.Dead(queue.Attempt{At: time.Now(), Status: 500})
								a.attempts++
								a.ended++
							default:
								err = lease.Ack(queue.Attempt{At: time.Now(), Status: 200})
								a.attempts++
								a.ended++
							}
							if err != nil {
								t.Error(err)
							}
						}
						settle()
					}
				}
				if err := l.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	// Somebody asks for redeliveries all the while.
	var requeued sync.Map
	wg.Go(func() {
		defer close(quiet)
		rnd := rand.New(rand.NewPCG(3, 3))
		for i := range events / 8 * 8 {
			id := <-ids
			if i%7 != 0 {
				continue
			}
			d := queue.DeliveryID{Event: id, Webhook: webhooks[rnd.IntN(len(webhooks))]}
			err := s.Requeue(ctx, d, time.Now().Add(time.Duration(rnd.IntN(10)-5)*time.Millisecond))
			if err == nil {
				requeued.Store(d, true)
			} else if !errors.Is(err, queue.ErrConflict) {
				t.Error(err)
			}
		}
	})
	wg.Wait()

	seen := 0
	for cursor := ""; ; {
		page, err := s.Deliveries(ctx, queue.DeliveryQuery{Limit: 97, Cursor: cursor})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range page.Items {
			seen++
			a := accounts[d.ID]
			switch {
			case a == nil:
				t.Errorf("%s was never handed out; it is %s, due %v", d.ID, d.State, d.Due)
			case d.State.Waiting():
				t.Errorf("%s still waits, due %v, %d attempts", d.ID, d.Due, a.attempts)
			case d.Attempts != a.attempts:
				t.Errorf("%s stores %d attempts, %d were made", d.ID, d.Attempts, a.attempts)
			}
			if _, ok := requeued.Load(d.ID); !ok && a != nil && a.ended != 1 {
				t.Errorf("%s ended %d times", d.ID, a.ended)
			}
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	if seen != len(accounts) {
		t.Errorf("%d deliveries are stored, %d were handed out", seen, len(accounts))
	}
	checkCounters(t, s)
}

// openLane opens a webhook's lane.
func openLane(t *testing.T, s *Store, w queue.WebhookID) *lane {
	t.Helper()
	l, err := s.Lane(w, queue.LaneOptions{MaxInFlight: 8})
	if err != nil {
		t.Fatal(err)
	}
	return l.(*lane)
}

// polls returns what the lane can lease at once.
func polls(t *testing.T, l *lane, most int) []*queue.Lease {
	t.Helper()
	leases, _, err := l.poll(t.Context(), most)
	if err != nil {
		t.Fatal(err)
	}
	return leases
}

// TestDeliveryGivenBackWhileTheLaneReadsAnewGoesOutOnce forces the order in which
// a lane forgets its windows, a lease is given back for at once, and the lane
// reads the disk.
func TestDeliveryGivenBackWhileTheLaneReadsAnewGoesOutOnce(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(lease *queue.Lease) error{
		"fresh":    nil,
		"retrying": func(lease *queue.Lease) error { return lease.Retry(time.Now(), queue.Attempt{Status: 500}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openAt(t, Options{Path: fastDir(t)})
			w := newWebhook(t, s, "w")
			l := openLane(t, s, w)
			e := enqueue(t, s, entry(1, w))
			lease := polls(t, l, 1)[0]
			if prepare != nil {
				if err := prepare(lease); err != nil {
					t.Fatal(err)
				}
				leases, err := l.Next(t.Context(), 1)
				if err != nil {
					t.Fatal(err)
				}
				lease = leases[0]
			}

			l.h.moved(0) // as Requeue of some other delivery does
			l.drain()
			if err := lease.Defer(time.Time{}); err != nil {
				t.Fatal(err)
			}
			again := polls(t, l, 1)
			if len(again) != 1 || again[0].Event.ID != e.ID {
				t.Fatalf("the delivery that was given back is not handed out: %v", again)
			}
			for _, w := range l.fresh {
				t.Errorf("event %d is out and in the window of fresh deliveries", w.seq)
			}
			for n, r := range l.rungs {
				for _, w := range r.window {
					t.Errorf("event %d is out and in the window of rung %d", w.Seq, n)
				}
			}
			if err := again[0].Ack(queue.Attempt{At: time.Now(), Status: 200}); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the delivery is delivered", func() bool {
				d, err := s.Delivery(t.Context(), again[0].Delivery.ID)
				return err == nil && d.State == queue.Delivered
			})
			if more := polls(t, l, 1); len(more) > 0 {
				t.Errorf("a delivery that was acknowledged is handed out again, %d attempts", more[0].Delivery.Attempts)
			}
		})
	}
}

// TestClosedLaneTakesNothingFromTheNext has a call of Next go on after its lane was
// closed and the next one was opened.
func TestClosedLaneTakesNothingFromTheNext(t *testing.T) {
	t.Parallel()
	s := openAt(t, Options{Path: fastDir(t)})
	w := newWebhook(t, s, "w")
	old := openLane(t, s, w)
	leased := enqueue(t, s, entry(1, w))
	if got := polls(t, old, 1); len(got) != 1 {
		t.Fatalf("%d leases, want 1", len(got))
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	l := openLane(t, s, w)
	if got := polls(t, l, 8); len(got) != 1 || got[0].Event.ID != leased.ID {
		t.Fatalf("the next lane hands out %v, want what the closed one had out", got)
	} else if err := got[0].Defer(time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	fresh := enqueue(t, s, entry(2, w))
	for range markEvery { // so often that it would publish its marks
		old.drain()
	}
	if got := polls(t, l, 8); len(got) != 1 || got[0].Event.ID != fresh.ID {
		t.Errorf("the next lane hands out %v, want the new event", got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for range markEvery {
		old.drain()
	}
	l = openLane(t, s, w)
	if got := polls(t, l, 8); len(got) != 1 || got[0].Event.ID != fresh.ID {
		t.Errorf("a lane opened after that hands out %v, want the event whose lease was lost", got)
	}
	checkCounters(t, s)
}
