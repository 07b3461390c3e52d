package relay

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
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
			if h.Kind == HappenedAttempt && h.Event == e.ID {
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
		if count[HappenedAccepted] != 1 || count[HappenedState] != 2 || count[HappenedActivity] != 2 {
			t.Errorf("happened: %v", count)
		}
		last := happened[len(happened)-1]
		if last.Kind != HappenedActivity || last.Who != "ada" || last.What != "webhook disabled" {
			t.Errorf("last: %+v", last)
		}
	})
}

func TestSlowListenersLoseTheOldestAndKnowHowMany(t *testing.T) {
	t.Parallel()
	r := New(Options{Queue: memqueue.New(memqueue.Options{})})
	slow, quick := r.Subscribe(nil), r.Subscribe(nil)
	defer quick.Close()
	const all = 3*maxUntaken + 7
	next := uint64(1)
	for range all {
		r.feed.publish(Happening{Kind: HappenedState})
		happened, lost := quick.Take()
		if len(happened) != 1 || lost != 0 || happened[0].ID != next {
			t.Fatalf("the quick one took %d from %d, %d lost", len(happened), next, lost)
		}
		next++
	}
	kept, lost := slow.Take()
	if len(kept)+lost != all || len(kept) > maxUntaken || len(kept) < maxUntaken/2 {
		t.Errorf("%d kept, %d lost, of %d", len(kept), lost, all)
	}
	for i, h := range kept {
		if want := uint64(lost + i + 1); h.ID != want {
			t.Fatalf("kept %d is number %d, want %d: the newest, in order", i, h.ID, want)
		}
	}
	slow.Close()
	slow.Close()
	if r.feed.publish(Happening{}); !r.feed.hasListeners() {
		t.Error("one still listens")
	}
	if kept, _ := slow.Take(); len(kept) != 0 {
		t.Error("a closed subscription is told")
	}
	quick.Close()
	if r.feed.hasListeners() {
		t.Error("nobody listens")
	}
}
