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
)

// tiny bounds make every lane overflow, fall behind and read from disk again
// and again.
var tiny = bounds{fresh: 3, freshBytes: 64, window: 4, told: 5, scan: 7, sweep: sweepLeast, reclaim: reclaimEvery}

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
	const events = 3000
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
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
						if due := lease.Delivery.Due; !due.IsZero() && time.Until(due) > shiftStep {
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
