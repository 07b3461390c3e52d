package relay

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
	"github.com/userhero/relay/relay/feed"
)

func TestListenersAreToldWhatHappens(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rs := &receivers{answer: always(http.StatusTeapot)}
		r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, Config{
			Webhooks: []WebhookConfig{{Name: "w", URL: "https://r.example/x", Retry: []time.Duration{time.Minute}}},
		})
		defer stop()
		accept(t, r, "fb_unheard")
		synctest.Wait()
		sub := r.Subscribe(nil)
		defer sub.Close()
		e := accept(t, r, "fb_1")
		time.Sleep(time.Hour)
		if err := r.Disable(t.Context(), "w", "ada"); err != nil {
			t.Fatal(err)
		}
		select {
		case <-sub.Ready():
		default:
			t.Fatal("nothing to take")
		}
		happened, lost := sub.Take()
		if lost != 0 {
			t.Errorf("%d lost", lost)
		}
		count := make(map[string]int)
		var states []queue.State
		for i, h := range happened {
			if h.ID != uint64(i+1) || h.At.IsZero() {
				t.Errorf("happening %d: %+v", i, h)
			}
			count[h.Kind]++
			if h.Kind == feed.Attempt && h.Event == e.ID {
				states = append(states, h.State)
				if h.Number != len(states) || h.Status != http.StatusTeapot || h.Class != "http_418" || h.Webhook != "w" || h.Feedback.ID != "fb_1" {
					t.Errorf("attempt: %+v", h)
				}
				if h.Next.IsZero() != (h.State == queue.Failed) {
					t.Errorf("an attempt after which it is %s says that the next is at %v", h.State, h.Next)
				}
			}
		}
		if len(states) != 2 || states[0] != queue.Retrying || states[1] != queue.Failed {
			t.Errorf("the event went through %v, want retrying, then failed", states)
		}
		// The webhook became failing, then disabled. Each change also adds an activity.
		if count[feed.Accepted] != 1 || count[feed.State] != 2 || count[feed.Activity] != 2 {
			t.Errorf("happened: %v", count)
		}
		last := happened[len(happened)-1]
		if last.Kind != feed.Activity || last.Who != "ada" || last.What != "webhook disabled" {
			t.Errorf("last: %+v", last)
		}
	})
}
