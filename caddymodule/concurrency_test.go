package caddymodule

import (
	"net/http"
	"sync"
	"testing"
)

func TestEqualSubmissionsAtOnceMakeOneEvent(t *testing.T) {
	s, h := newSite(t), newHook(t)
	s.load(webhookTo(h), directive)
	const clients = 64
	answers := make([]answer, clients)
	var all sync.WaitGroup
	for i := range answers {
		all.Go(func() {
			var err error
			answers[i], err = request(http.MethodPost, "http://"+s.address+"/feedback", `{"message":"once"}`,
				"Content-Type", "application/json", "Idempotency-Key", "k")
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	firsts := 0
	for _, a := range answers {
		if a.Status != http.StatusAccepted || a.Body != answers[0].Body {
			t.Errorf("%d %s, want %s", a.Status, a.Body, answers[0].Body)
		}
		if a.Header.Get("Idempotency-Replayed") == "" {
			firsts++
		}
	}
	if firsts != 1 {
		t.Errorf("%d answers were no replay, want 1", firsts)
	}
	if n := len(s.api("/events").json(t)["items"].([]any)); n != 1 {
		t.Errorf("%d events, want 1", n)
	}
}
