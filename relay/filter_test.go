package relay

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
	"github.com/userhero/relay/relay/deliver"
)

// filterFailures is an observer that counts events that a filter could not judge.
type filterFailures struct {
	nobody
	mu sync.Mutex
	of map[string]int
}

func (f *filterFailures) FilterFailed(webhook string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.of[webhook]++
}

func TestFilterThatCannotJudgeAnEventIsCountedAndShown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rs := &receivers{answer: always(200)}
		observer := &filterFailures{of: map[string]int{}}
		settings := func(filter string) Config {
			return Config{Webhooks: []WebhookConfig{
				{Name: "text", URL: "https://text.example/", Filter: filter},
				{Name: "absent", URL: "https://absent.example/", Filter: `data.category != "spam" && !(data.rating > 3)`},
			}}
		}
		client, err := deliver.NewClient(deliver.Egress{}, deliver.Options{Transport: rs})
		if err != nil {
			t.Fatal(err)
		}
		r := New(Options{Queue: memqueue.New(memqueue.Options{}), Observer: observer, client: client})
		if err := r.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = r.Stop(t.Context()) }()
		if _, err := r.Attach(settings(`data.message <= 2`)); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"fb_1", "fb_2", "fb_3"} {
			if _, err := r.Accept(t.Context(), queue.Entry{
				Type: string(event.Created), Feedback: queue.FeedbackID{ID: id}, Body: []byte(`{"event":"feedback.created","data":{"message":"x"}}`),
			}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if seen := rs.all(); len(seen) != 3 || seen[0].host != "absent.example" {
			t.Fatalf("%d requests came, of %v; want 3 to absent.example", len(seen), seen)
		}
		w, _ := r.Webhook("text")
		if f := w.FilterErrors; f.Count != 3 || !strings.Contains(f.Last, "no such overload") || !f.At.Equal(time.Now()) {
			t.Errorf("the webhook shows %+v", f)
		}
		if other, _ := r.Webhook("absent"); other.FilterErrors.Count != 0 {
			t.Errorf("a filter over absent members shows %+v", other.FilterErrors)
		}
		if observer.of["text"] != 3 || len(observer.of) != 1 {
			t.Errorf("counted are %v", observer.of)
		}
		// A changed filter starts without errors.
		if _, err := r.Attach(settings(`data.rating <= 2`)); err != nil {
			t.Fatal(err)
		}
		if w, _ := r.Webhook("text"); w.FilterErrors != (FilterErrors{}) {
			t.Errorf("after a change of the filter it shows %+v", w.FilterErrors)
		}
	})
}

// TestFiltersHoldNoLock: filters run outside the relay's lock. An add, a delete or a
// reload that waits for the lock does not block submissions, and a slow filter blocks
// none of them.
func TestFiltersHoldNoLock(t *testing.T) {
	t.Parallel()
	observer := &lockWatch{}
	r := New(Options{Queue: memqueue.New(memqueue.Options{}), Observer: observer})
	observer.relay = r
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Stop(t.Context()) }()
	if _, err := r.Attach(Config{Webhooks: []WebhookConfig{{Name: "w", URL: "https://w.example/", Filter: `data.message <= 1`}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Accept(t.Context(), queue.Entry{
		Type: string(event.Created), Feedback: queue.FeedbackID{ID: "fb"}, Body: []byte(`{"event":"feedback.created","data":{"message":"x"}}`),
	}); err != nil {
		t.Fatal(err)
	}
	if !observer.failed || observer.locked {
		t.Errorf("the filter failed: %v; the relay was locked then: %v", observer.failed, observer.locked)
	}
}

// lockWatch checks whether the relay is locked when a filter fails.
type lockWatch struct {
	nobody
	relay          *Relay
	failed, locked bool
}

func (l *lockWatch) FilterFailed(string) {
	l.failed = true
	if l.locked = !l.relay.mu.TryLock(); !l.locked {
		l.relay.mu.Unlock()
	}
}
