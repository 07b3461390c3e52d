package jetstreamqueue_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/jetstreamqueue"
)

// TestLostLaneRepeatsOnlyWhatWasInFlight: a majority of the servers is away while attempts
// end, so nothing of them can be stored, and the lane is lost. The next owner attempts only
// those again that had no outcome: another relay that heard of the outcomes, or the same
// relay. The control cannot know them.
func TestLostLaneRepeatsOnlyWhatWasInFlight(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name        string
		owner, next string // what becomes of the owner, and who is the next one
		repeats     bool
	}{
		{name: "the owner dies, another relay has heard", owner: "dies", next: "hears"},
		{name: "the owner lives, and is the next one", owner: "lives"},
		{name: "the owner dies, and the next one hears from a third relay", owner: "dies", next: "hears of a third"},
		{name: "the owner dies, nobody has heard: the control", owner: "dies", next: "comes later", repeats: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			const many = 24
			servers := cluster(t)
			o := jetstreamqueue.Options{Servers: urls(servers), Prefix: "unstored", LockTTL: 3 * time.Second}
			owner := opened(t, o)
			hook, err := owner.PutWebhook(t.Context(), queue.Webhook{Name: "w"})
			if err != nil {
				t.Fatal(err)
			}
			lane := func(q *jetstreamqueue.Queue) queue.Lane {
				l, err := q.Lane(hook.ID, queue.LaneOptions{MaxInFlight: many})
				if err != nil {
					t.Fatal(err)
				}
				return l
			}
			for i := range many {
				if _, err := owner.Enqueue(t.Context(), queue.Entry{
					Type: "feedback.created", Feedback: queue.FeedbackID{ID: fmt.Sprintf("fb_%d", i)}, Created: time.Now(),
					Body: []byte("{}"), Webhooks: []queue.WebhookID{hook.ID},
				}); err != nil {
					t.Fatal(err)
				}
			}
			l := lane(owner)
			leases := nextLeases(t, l, many)
			next, nextLane := owner, l
			if test.next == "hears" {
				next = opened(t, o)
				nextLane = lane(next)
			}
			third := owner
			if test.next == "hears of a third" {
				third = opened(t, o)
			}

			lost := servers[:2]
			if test.repeats {
				lost = servers // a server that is left could keep what the owner tries to store
			}
			for _, s := range lost {
				s.Kill()
			}
			// What is said to a server that has just been killed is lost.
			eventually(t, "the relays are connected to the server that is left", func() bool {
				return len(lost) == len(servers) || owner.ConnectedTo() == servers[2].url && next.ConnectedTo() == servers[2].url && third.ConnectedTo() == servers[2].url
			})
			// Every third stays out, every third fails, and every third succeeds.
			due := time.Now().Add(time.Second)
			out := make(map[queue.EventID]bool)
			for i, lease := range leases {
				switch i % 3 {
				case 0:
					out[lease.Event.ID] = true
				case 1:
					err = lease.Retry(due, queue.Attempt{At: time.Now(), Status: 500})
				case 2:
					err = lease.Ack(queue.Attempt{At: time.Now(), Status: 201})
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, "the next owner has the outcomes", func() bool {
				switch test.next {
				case "comes later":
					return true
				case "hears of a third":
					return third.Heard(hook.ID) == many-len(out)
				case "hears":
					return next.Heard(hook.ID) == many-len(out)
				default:
					return !l.Owned() && next.Heard(hook.ID) == many-len(out)
				}
			})
			if test.owner == "dies" {
				owner.Kill()
			}
			for _, s := range lost {
				s.start(t)
			}
			for _, s := range lost {
				s.ready(t)
			}
			// While leaders are still elected, the lane's lock may expire once more, and what was
			// not told by then is repeated.
			for _, s := range servers {
				eventually(t, s.name+" has all that the others have", func() bool { return s.HasAll(o.Prefix) == nil })
			}
			switch test.next {
			case "comes later":
				next = opened(t, o)
				nextLane = lane(next)
			case "hears of a third":
				next = opened(t, o)
				// The server that was left may have kept what the owner tried to store, and store
				// it now. Then the third relay forgets it.
				eventually(t, "the next owner has heard what the third relay knows", func() bool {
					if err := next.WaitFor(hook.ID); err != nil { // the servers may still be connecting to each other
						t.Fatal(err)
					}
					return next.Heard(hook.ID) == third.Heard(hook.ID)
				})
				nextLane = lane(next)
			}

			repeated, retried := 0, 0
			for range many - many/3 { // without those that succeeded
				lease := nextLeases(t, nextLane, 1)[0]
				switch {
				case lease.Delivery.Rung > 0:
					retried++
					if time.Now().Before(due) {
						t.Errorf("%s comes %v before it is due", lease.Delivery.ID, time.Until(due))
					}
				case !out[lease.Event.ID]:
					repeated++
				}
				if err := lease.Ack(queue.Attempt{At: time.Now(), Status: 202}); err != nil {
					t.Fatal(err)
				}
			}
			if test.repeats {
				if repeated == 0 {
					t.Error("nothing is repeated, though nobody could know the outcomes")
				}
				return
			}
			if repeated > 0 || retried != many/3 {
				t.Errorf("%d deliveries are repeated, and %d are retried, want 0 and %d", repeated, retried, many/3)
			}
			if err := nextLane.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			// A server that has just become the leader may answer before it has read everything.
			eventually(t, "the attempts that were known are stored", func() bool {
				for i, lease := range leases {
					all, err := next.Attempts(t.Context(), lease.Delivery.ID)
					if err != nil {
						t.Fatal(err)
					}
					var got []int
					for _, a := range all {
						got = append(got, a.Status)
					}
					if fmt.Sprint(got) != fmt.Sprint([][]int{{202}, {500, 202}, {201}}[i%3]) {
						return false
					}
				}
				return true
			})
		})
	}
}

// nextLeases waits for n leases.
func nextLeases(t *testing.T, l queue.Lane, n int) (all []*queue.Lease) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for len(all) < n {
		some, err := l.Next(ctx, n-len(all))
		if err != nil {
			t.Fatalf("Next after %d of %d leases: %v", len(all), n, err)
		}
		all = append(all, some...)
	}
	return all
}
