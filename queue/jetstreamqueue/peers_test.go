package jetstreamqueue_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/jetstreamqueue"
)

// eventually waits for a condition.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for giveUp := time.Now().Add(2 * time.Minute); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(giveUp) {
			t.Fatalf("after two minutes it does not hold that %s", what)
		}
	}
}

// TestLanesSpreadOverRelays: a relay that comes later gets a share of the lanes. A
// delivery that is out when its lane could move stays with its owner, and nothing is
// delivered twice.
func TestLanesSpreadOverRelays(t *testing.T) {
	t.Parallel()
	const many = 24
	o := jetstreamqueue.Options{Servers: []string{oneServer(t).url}, Prefix: "spread"}
	first := opened(t, o)
	lanes := make([][2]queue.Lane, many)
	var entry queue.Entry
	for i := range lanes {
		hook, err := first.PutWebhook(t.Context(), queue.Webhook{Name: fmt.Sprintf("w%d", i)})
		if err != nil {
			t.Fatal(err)
		}
		entry.Webhooks = append(entry.Webhooks, hook.ID)
	}
	entry.Type, entry.Created, entry.Body = "feedback.created", time.Now(), []byte("{}")
	if _, err := first.Enqueue(t.Context(), entry); err != nil {
		t.Fatal(err)
	}
	open := func(q *jetstreamqueue.Queue, n int) {
		t.Helper()
		for i, id := range entry.Webhooks {
			l, err := q.Lane(id, queue.LaneOptions{})
			if err != nil {
				t.Fatal(err)
			}
			lanes[i][n] = l
		}
	}
	owned := func() (count [2]int) {
		for i, l := range lanes {
			for n := range l {
				if l[n] != nil && l[n].Owned() {
					count[n]++
				}
			}
			if l[0].Owned() && l[1] != nil && l[1].Owned() {
				t.Fatalf("lane %d has two owners", i)
			}
		}
		return count
	}
	open(first, 0)
	leases := make([]*queue.Lease, many)
	for i := range lanes {
		some, err := lanes[i][0].Next(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		leases[i] = some[0]
	}
	second := opened(t, o)
	open(second, 1)
	// While deliveries are out, lanes stay: the second relay asks for them every 2 s.
	for until := time.Now().Add(3 * time.Second); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		if n := owned(); n[1] > 0 {
			t.Fatalf("%d lanes have moved while a delivery was out", n[1])
		}
	}
	for i, lease := range leases {
		if err := lease.Ack(queue.Attempt{At: time.Now(), Status: 200}); err != nil {
			t.Fatalf("lane %d: %v", i, err)
		}
		// The lane may have moved before Sync is called. Then everything is stored.
		if err := lanes[i][0].Sync(t.Context()); err != nil && !errors.Is(err, queue.ErrLeaseLost) {
			t.Fatalf("lane %d: Sync: %v", i, err)
		}
	}
	last := [2]int{}
	eventually(t, "the lanes are spread", func() bool {
		n := owned()
		if n != last {
			t.Logf("%s: the first relay owns %d lanes, the second %d", time.Now().Format("15:04:05.000"), n[0], n[1])
		}
		last = n
		return n[0]+n[1] == many && n[1] >= many/6
	})
	for i := range lanes {
		for n := range lanes[i] {
			if !lanes[i][n].Owned() {
				continue
			}
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			if again, err := lanes[i][n].Next(ctx, 1); err == nil {
				t.Errorf("lane %d hands out %s again", i, again[0].Delivery.ID)
			}
			cancel()
		}
	}
	if n := second.Stats(t.Context()); n.LanesOwned() != owned()[1] {
		t.Errorf("the second relay counts %d lanes of its own, and owns %d", n.LanesOwned(), owned()[1])
	}
}

// TestRelaysLearnOfEachOthersChanges: what one relay writes into the registry the other
// one hears of within a second, and what it says with Tell.
func TestRelaysLearnOfEachOthersChanges(t *testing.T) {
	t.Parallel()
	o := jetstreamqueue.Options{Servers: []string{oneServer(t).url}, Prefix: "watch"}
	writes, reads := opened(t, o), opened(t, o)
	type change struct {
		queue.Webhook
		deleted bool
	}
	changes, told := make(chan change, 100), make(chan string, 100)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{}, 2)
	go func() {
		reads.Watch(ctx, func(w queue.Webhook, deleted bool) { changes <- change{w, deleted} })
		ended <- struct{}{}
	}()
	go func() {
		reads.Hear(ctx, func(m []byte) { told <- string(m) })
		ended <- struct{}{}
	}()
	next := func(what string) change {
		t.Helper()
		select {
		case c := <-changes:
			return c
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: the other relay does not hear of it", what)
			return change{}
		}
	}
	put, err := writes.PutWebhook(t.Context(), queue.Webhook{Name: "w", Data: []byte("1")})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if c := next("a new webhook"); c.Name != "w" || c.Revision != put.Revision || string(c.Data) != "1" || c.deleted {
		t.Errorf("of a new webhook the other relay hears %+v", c)
	}
	t.Logf("a new webhook was known after %v", time.Since(began))
	put.Data = []byte("2")
	if put, err = writes.PutWebhook(t.Context(), put); err != nil {
		t.Fatal(err)
	}
	if c := next("a changed webhook"); c.Revision != put.Revision || string(c.Data) != "2" {
		t.Errorf("of a changed webhook the other relay hears %+v", c)
	}
	if _, err := writes.DeleteWebhook(t.Context(), put.ID, put.Revision); err != nil {
		t.Fatal(err)
	}
	if c := next("a deleted webhook"); c.ID != put.ID || !c.deleted {
		t.Errorf("of a deleted webhook the other relay hears %+v", c)
	}
	eventually(t, "a message arrives", func() bool {
		writes.Tell([]byte("hello"))
		select {
		case m := <-told:
			return m == "hello"
		case <-time.After(100 * time.Millisecond):
			return false
		}
	})
	cancel()
	<-ended
	<-ended
}
