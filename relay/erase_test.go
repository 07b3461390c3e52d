package relay

import (
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
)

// TestErasingWaitsForAttemptsInFlight: the answer comes when nothing of it is on its way
// any more, and no retry follows.
func TestErasingWaitsForAttemptsInFlight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rs := &receivers{answer: func(request) (int, http.Header) {
			time.Sleep(10 * time.Second)
			return 500, nil
		}}
		q := memqueue.New(memqueue.Options{})
		r, stop := startOn(t, q, rs, Config{Webhooks: []WebhookConfig{{Name: "w", URL: "https://w.example/"}, {Name: "v", URL: "https://v.example/", Disabled: true}}})
		defer stop()
		accept(t, r, "fb_1")
		synctest.Wait()
		began := time.Now()
		sum, err := r.Erase(t.Context(), Erasure{Filter: `data.id == "fb_1"`}, "ada")
		if err != nil || sum.Feedbacks != 1 || sum.Waiting != 1 {
			t.Errorf("%+v, %v", sum, err)
		}
		if took := time.Since(began); took < 9*time.Second || took > 11*time.Second {
			t.Errorf("erasing took %v, and the attempt 10 s", took)
		}
		time.Sleep(48 * time.Hour)
		if n := len(rs.all()); n != 1 {
			t.Errorf("%d requests", n)
		}
		log, err := r.Activities(t.Context(), 1, "")
		if err != nil || log.Items[0].What != "feedback erased" || log.Items[0].Who != "ada" {
			t.Errorf("%+v, %v", log.Items, err)
		}
		if _, err := r.Erase(t.Context(), Erasure{Feedback: queue.FeedbackID{ID: "nobody"}}, "ada"); !errors.Is(err, queue.ErrNotFound) {
			t.Errorf("of what never was: %v", err)
		}
	})
}

// TestErasingGoesOnWherePagesEnd: what is erased on the way does not disturb what comes
// next, and an update of one that is erased already is no other.
func TestErasingGoesOnWherePagesEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := memqueue.New(memqueue.Options{})
		r, stop := startOn(t, q, &receivers{answer: always(200)}, Config{})
		defer stop()
		for _, id := range []string{"fb_1", "fb_2", "other", "fb_3", "fb_4", "fb_5"} {
			accept(t, r, id)
		}
		for _, what := range []Erasure{
			{Filter: `data.id.startsWith("fb_")`, DryRun: true, atOnce: 2},
			{Filter: `data.id.startsWith("fb_")`, atOnce: 2},
		} {
			sum, err := r.Erase(t.Context(), what, "ada")
			if err != nil || sum.Feedbacks != 5 || sum.Events != 5 {
				t.Errorf("dry run %v: %+v, %v", what.DryRun, sum, err)
			}
		}
		if n := q.Stats(t.Context()).Events; n != 1 {
			t.Errorf("%d events are left", n)
		}
	})
}
