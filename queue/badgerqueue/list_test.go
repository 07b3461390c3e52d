package badgerqueue

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
)

// acceptOld stores n events that were accepted some time ago, as fast as it can.
func acceptOld(t *testing.T, s *Store, n int, age time.Duration, ws ...queue.WebhookID) {
	t.Helper()
	const writers = 32
	var wg sync.WaitGroup
	for g := range writers {
		wg.Go(func() {
			for i := g; i < n; i += writers {
				e := entry(i, ws...)
				e.Created = time.Now().Add(-age)
				if _, err := s.Enqueue(context.Background(), e); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestListOfRecentDeliveriesEndsAtItsTime: nothing that is asked for is among the
// recent deliveries, and the list does not go on through all the old ones.
func TestListOfRecentDeliveriesEndsAtItsTime(t *testing.T) {
	t.Parallel()
	s := openAt(t, Options{Path: fastDir(t)})
	a, b := newWebhook(t, s, "a"), newWebhook(t, s, "b")
	acceptOld(t, s, listBudget+1000, time.Hour, a)
	acceptOld(t, s, 10, 0, a)
	since := time.Now().Add(-30 * time.Minute)
	for name, q := range map[string]queue.DeliveryQuery{
		"of a webhook that has none": {Webhook: b, Since: since},
		"in a state that none has":   {States: []queue.State{queue.Failed}, Since: since},
	} {
		page, err := s.Deliveries(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Items) > 0 || page.Next != "" {
			t.Errorf("recent deliveries %s: %d, and the list goes on at %q", name, len(page.Items), page.Next)
		}
	}
	page, err := s.Deliveries(t.Context(), queue.DeliveryQuery{Webhook: a, Since: since})
	if err != nil || len(page.Items) != 10 {
		t.Errorf("%d recent deliveries, want 10 (%v)", len(page.Items), err)
	}
}
