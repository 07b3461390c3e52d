package caddymodule

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
)

func TestEqualSubmissionsAtOnceMakeOneEvent(t *testing.T) {
	s, h := newSite(t), newHook(t)
	s.load(webhookTo(h), intake)
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

func TestUpdatesAtOnceLoseNoChange(t *testing.T) {
	s, h := newSite(t), newHook(t)
	s.load(webhookTo(h), "userhero /feedback* {\nupdate_auth token\n}")
	id := s.post(`{"message":"hi"}`).json(t)["id"].(string)
	const clients = 32
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			a, err := request(http.MethodPatch, "http://"+s.address+"/feedback/"+id, fmt.Sprintf(`{"metadata":{"m%d":%d}}`, i, i),
				"Content-Type", "application/json", "Authorization", "Bearer token")
			if err != nil || a.Status != http.StatusAccepted {
				t.Errorf("%v %d %s", err, a.Status, a.Body)
			}
		})
	}
	all.Wait()
	most, seen := 0, make(map[string]bool)
	for _, arrived := range h.await(t, clients+1) {
		doc := arrived.document(t)
		metadata, _ := doc.Data["metadata"].(map[string]any)
		most = max(most, len(metadata))
		if state := fmt.Sprint(metadata); seen[state] {
			t.Errorf("the state %s was sent twice", state)
		} else {
			seen[state] = true
		}
	}
	if most != clients {
		t.Errorf("the fullest state holds %d of %d changes", most, clients)
	}
}
