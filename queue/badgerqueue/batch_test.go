package badgerqueue

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
)

// TestWideEventsSettledAtOnceTakeSeveralTransactions: where every event has
// hundreds of deliveries, the records that many settlements touch are larger
// than one transaction of Badger, while each settlement is small.
func TestWideEventsSettledAtOnceTakeSeveralTransactions(t *testing.T) {
	t.Parallel()
	const wide, events = 300, 128
	ctx := context.Background()
	var transactions atomic.Int64
	s := openSmall(t, Options{Path: t.TempDir(), OnCommit: func(time.Duration, int) { transactions.Add(1) }})
	webhooks := addWebhooks(t, s, wide)
	lane, err := s.Lane(webhooks[7], queue.LaneOptions{MaxInFlight: events})
	if err != nil {
		t.Fatal(err)
	}
	for i := range events {
		if _, err := s.Enqueue(ctx, entry(i, webhooks...)); err != nil {
			t.Fatal(err)
		}
	}
	var leases []*queue.Lease
	for len(leases) < events {
		more, err := lane.Next(ctx, events)
		if err != nil {
			t.Fatal(err)
		}
		leases = append(leases, more...)
	}
	// The committer is held until all of them wait for it.
	holding, hold := make(chan struct{}), make(chan struct{})
	held := make(chan error, 1)
	go func() {
		held <- s.commit(ctx, 1, 1, func(*batch) error {
			close(holding)
			<-hold
			return nil
		})
	}()
	<-holding
	transactions.Store(0)
	for _, l := range leases {
		if err := l.Ack(queue.Attempt{At: time.Now(), Status: 200}); err != nil {
			t.Error(err)
		}
	}
	close(hold)
	if err := <-held; err != nil {
		t.Fatal(err)
	}
	if err := s.commit(ctx, 1, 1, func(*batch) error { return nil }); err != nil { // comes after them
		t.Fatal(err)
	}
	if n := transactions.Load(); n < 4 { // that of the holder, several of settlements, the last
		t.Errorf("%d transactions: the settlements fit one", n)
	}
	if got := s.Stats(context.Background()).Webhooks[webhooks[7]].Counts; got != (queue.Counts{Delivered: events}) {
		t.Errorf("counted %+v", got)
	}
}

// TestRecentsHoldABoundedNumber: newer events take the places of older ones, and
// wide ones push many out.
func TestRecentsHoldABoundedNumber(t *testing.T) {
	t.Parallel()
	r := new(recents)
	held := func() (n int) {
		for _, p := range r.places {
			n += len(p.ds)
		}
		return n
	}
	for seq := uint64(1); seq <= 3*recentPlaces; seq++ {
		r.remember(seq, make(deliveries, 1+seq%100))
		if got, ok := r.get(seq); !ok || len(got) != int(1+seq%100) {
			t.Fatalf("event %d: %d deliveries, %v", seq, len(got), ok)
		}
	}
	if n := held(); n != r.held || n > remembered {
		t.Errorf("%d deliveries are held, %d counted", n, r.held)
	}
	if _, ok := r.get(1); ok {
		t.Error("the first event is remembered")
	}
	const last = 3 * recentPlaces
	r.forget(last - recentPlaces) // another's place by now
	if _, ok := r.get(last); !ok {
		t.Error("forgetting one event forgot another")
	}
	r.remember(last+1, make(deliveries, remembered+1))
	r.forget(last)
	if _, ok := r.get(last); ok || held() != r.held {
		t.Errorf("%d deliveries are held, %d counted", held(), r.held)
	}
}
