package relay

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
	"github.com/userhero/relay/relay/deliver"
)

// lostLease is a queue whose leases are lost: another relay owns the lane.
type lostLease struct{ settled }

func (lostLease) Lost(*queue.Lease) bool { return true }

// TestLostLeaseIsNotAttempted: a delivery that another relay may be sending is not
// sent, and its place in flight becomes free.
func TestLostLeaseIsNotAttempted(t *testing.T) {
	t.Parallel()
	var requests atomic.Int64
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) }))
	defer receiver.Close()
	r := New(Options{Queue: memqueue.New(memqueue.Options{})})
	if _, err := r.Attach(Config{
		Webhooks: []WebhookConfig{{Name: "w", URL: receiver.URL}},
		Egress:   deliver.Egress{Allow: []string{"127.0.0.1"}},
	}); err != nil {
		t.Fatal(err)
	}
	w, err := r.find("w")
	if err != nil {
		t.Fatal(err)
	}
	id := queue.NewEventID(time.Now(), 1, 1)
	for _, c := range []struct {
		settler queue.Settler
		want    int64
	}{{lostLease{}, 0}, {settled{}, 1}} {
		w.mu.Lock()
		w.breaker.Begin()
		w.underWay++
		w.mu.Unlock()
		w.deliver(task{target: w.currentTarget(), attempts: w.attempts, lease: queue.NewLease(
			queue.Delivery{ID: queue.DeliveryID{Event: id, Webhook: w.id}, Type: string(event.Created), Created: time.Now()},
			queue.Event{ID: id, Type: string(event.Created), Body: []byte("{}")}, c.settler)})
		if got := requests.Load(); got != c.want {
			t.Errorf("%T: %d requests, want %d", c.settler, got, c.want)
		}
		w.mu.Lock()
		if w.underWay != 0 {
			t.Errorf("%T: %d are in flight, want none", c.settler, w.underWay)
		}
		w.mu.Unlock()
	}
}
