package intake

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
)

// erase erases a feedback of the site's store.
func (s *site) erase(project, id string) {
	s.t.Helper()
	sum, err := s.store.Erase(s.t.Context(), []queue.FeedbackID{{Project: project, ID: id}})
	if err != nil || sum.Feedbacks != 1 {
		s.t.Fatalf("erasing %s: %+v, %v", id, sum, err)
	}
}

// TestRepeatOfErasedIsGone: whatever a repeat is known by, it is 410 and makes no event.
func TestRepeatOfErasedIsGone(t *testing.T) {
	t.Parallel()
	for project, path := range map[string]string{"": "/all", "p": "/p"} {
		s := newSite(t)
		s.handle(path, Config{Project: fixed(project), Token: fixed("t")})
		auth := []string{"Content-Type", "application/json", "Authorization", "Bearer t"}
		keyed := append([]string{"Idempotency-Key", "k"}, auth...)
		made := s.do("POST", path, `{"message":"with a key"}`, keyed...).json(t)["id"].(string)
		const named = `{"id":"mine","message":"with an id"}`
		s.do("POST", path, named, auth...)
		s.do("PATCH", path+"/mine", `{"status":"seen"}`, keyed...)
		s.do("PATCH", path+"/mine", `{"status":"seen"}`, append([]string{"Idempotency-Key", "unchanged"}, auth...)...)
		s.do("POST", path, `{"message":"another"}`, auth...)
		s.erase(project, made)
		s.erase(project, "mine")
		events := s.events()
		for name, r := range map[string][]string{
			"the key":                   append([]string{"POST", path, `{"message":"with a key"}`}, keyed...),
			"the id":                    append([]string{"POST", path, named}, auth...),
			"the id, as something else": append([]string{"POST", path, `{"id":"mine","message":"other"}`}, auth...),
			"the update":                append([]string{"PATCH", path + "/mine", `{"status":"seen"}`}, keyed...),
			"the update without effect": append([]string{"PATCH", path + "/mine", `{"status":"seen"}`, "Idempotency-Key", "unchanged"}, auth...),
			"another update":            append([]string{"PUT", path + "/mine", `{"status":"done"}`}, auth...),
			"an update of the other":    append([]string{"PATCH", path + "/" + made, `{"status":"done"}`}, auth...),
		} {
			a := s.do(r[0], r[1], r[2], r[3:]...)
			if a.Status != http.StatusGone || !strings.Contains(a.Body, "erased") {
				t.Errorf("%s%s: %d %s", path, name, a.Status, a.Body)
			}
		}
		if n := s.events(); n != events || n != 1 {
			t.Errorf("%d events, %d before the repeats", n, events)
		}
		if a := s.do("PATCH", path+"/nobody", `{"status":"done"}`, auth...); a.Status != http.StatusNotFound {
			t.Errorf("what never was: %d", a.Status)
		}
	}
}

// TestAppsChangeOfErasedIsCounted: the application may still have what was erased here.
func TestAppsChangeOfErasedIsCounted(t *testing.T) {
	s := newSidecar(t, Config{Project: fixed("p")})
	s.will(200, `{"id":"x","message":"m"}`, jsonBody...)
	s.do("POST", "/feedback", `{"message":"m"}`, jsonBody...)
	s.erase("p", "x")
	for _, r := range [][]string{{"POST", "/feedback", `{"message":"m"}`}, {"PATCH", "/feedback/x", `{"status":"done"}`}} {
		if a := s.do(r[0], r[1], r[2], jsonBody...); a.Status != 200 {
			t.Errorf("%s: the client got %d %s", r[0], a.Status, a.Body)
		}
	}
	s.will(204, "")
	if a := s.do("PATCH", "/feedback/x", `{"status":"done"}`, jsonBody...); a.Status != 204 {
		t.Errorf("the client got %d %s", a.Status, a.Body)
	}
	if m, n := s.missed(), s.site.events(); m != "erased 3" || n != 0 {
		t.Errorf("missed: %s; %d events", m, n)
	}
}

// TestRedactedFeedbackDoesNotChange: what an update would be merged with is gone.
func TestRedactedFeedbackDoesNotChange(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.handle("/f", Config{Token: fixed("t")})
	auth := []string{"Content-Type", "application/json", "Authorization", "Bearer t"}
	id := s.do("POST", "/f", `{"message":"canary","category":"bug"}`, auth...).json(t)["id"].(string)
	s.store.SetLimits(queue.Limits{RedactAfter: time.Nanosecond, Redact: event.Redacted})
	time.Sleep(time.Millisecond)
	if a := s.do("PATCH", "/f/"+id, `{"status":"done"}`, auth...); a.Status != http.StatusGone {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	if e, err := s.store.Latest(t.Context(), queue.FeedbackID{ID: id}); err != nil || !e.Redacted ||
		strings.Contains(string(e.Body), "canary") || !strings.Contains(string(e.Body), `"category":"bug"`) {
		t.Errorf("%s, %v", e.Body, err)
	}
}
