package intake

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
)

// twoProjects has two handlers with a project each, and one without.
func (s *site) twoProjects() {
	s.t.Helper()
	s.handle("/a", Config{Project: fixed("proj_a"), Token: fixed("token-a")})
	s.handle("/b", Config{Project: fixed("proj_b"), Token: fixed("token-b")})
	s.handle("/any", Config{Token: fixed("token-any")})
}

// submit posts JSON to a path.
func (s *site) submit(path, body string, header ...string) answer {
	s.t.Helper()
	return s.do(http.MethodPost, path, body, append(header, jsonBody...)...)
}

// patch sends an update with a token.
func (s *site) patch(path, token, body string, header ...string) answer {
	s.t.Helper()
	return s.update(http.MethodPatch, path, token, body, header...)
}

func (s *site) update(method, path, token, body string, header ...string) answer {
	s.t.Helper()
	return s.do(method, path, body, append(header, append([]string{"Authorization", "Bearer " + token}, jsonBody...)...)...)
}

// is checks an answer's status, and that its body contains a text.
func (a answer) is(t *testing.T, what string, status int, contains string) {
	t.Helper()
	if a.Status != status || !strings.Contains(a.Body, contains) {
		t.Errorf("%s: %d %s, want %d with %q", what, a.Status, a.Body, status, contains)
	}
}

// repeats checks that an answer is the first one again.
func (a answer) repeats(t *testing.T, what string, first answer) {
	t.Helper()
	if a.Status != first.Status || a.Body != first.Body || a.Header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("%s: %d %s (replayed: %q), want the first answer %d %s", what, a.Status, a.Body, a.Header.Get("Idempotency-Replayed"), first.Status, first.Body)
	}
}

func TestTokenOfOneProjectChangesNoOther(t *testing.T) {
	s := newSite(t)
	s.twoProjects()
	s.submit("/a", `{"id":"only","message":"of a"}`).is(t, "a's feedback", 202, "only")
	s.submit("/a", `{"id":"both","message":"of a"}`).is(t, "a's feedback", 202, "both")
	s.submit("/b", `{"id":"both","message":"of b"}`).is(t, "b's feedback with the same id", 202, "both")

	s.patch("/b/only", "token-b", `{"status":"x"}`).is(t, "b updates what a alone has", 404, "no feedback with this id")
	s.patch("/a/only", "token-b", `{"status":"x"}`).is(t, "b's token at a's address", 403, "")
	s.patch("/b/only", "token-b", `{"status":"x","projectId":"proj_a"}`).is(t, "b names a", 422, `"pointer":"/projectId"`)
	s.patch("/b/both", "token-b", `{"status":"x","projectId":"proj_a"}`).is(t, "b names a where both have it", 422, `"pointer":"/projectId"`)
	s.patch("/b/both", "token-b", `{"status":"x","projectId":null}`).is(t, "b names no project", 422, `"pointer":"/projectId"`)
	if n := s.events(); n != 3 {
		t.Errorf("%d events after what was refused, want 3", n)
	}
	for _, project := range []string{"a", "b", "a"} {
		s.patch("/"+project+"/both", "token-"+project, `{"note":"`+project+s.address+fmt.Sprint(s.events())+`"}`).is(t, project+" updates its own", 202, "both")
		if data := s.latest(); data["message"] != "of "+project || data["projectId"] != "proj_"+project {
			t.Errorf("the update of %s carries %v", project, data)
		}
	}
}

func TestSubmissionOfAnotherProjectIsRefused(t *testing.T) {
	s := newSite(t)
	s.twoProjects()
	form := []string{"Content-Type", "application/x-www-form-urlencoded"}
	for what, a := range map[string]answer{
		"another project":              s.submit("/a", `{"message":"m","projectId":"proj_b"}`),
		"an empty project":             s.submit("/a", `{"message":"m","projectId":""}`),
		"another project, in a form":   s.do(http.MethodPost, "/a", "message=m&projectId=proj_b", form...),
		"another project and an id":    s.submit("/a", `{"id":"x","message":"m","projectId":"proj_b"}`),
		"another project, with a key ": s.submit("/a", `{"message":"m","projectId":"proj_b"}`, "Idempotency-Key", "k"),
	} {
		a.is(t, what, 422, `"pointer":"/projectId"`)
	}
	if n := s.events(); n != 0 {
		t.Errorf("%d events after what was refused", n)
	}
	for what, body := range map[string]string{"its own": `{"message":"m","projectId":"proj_a"}`, "none": `{"message":"m"}`, "null": `{"message":"m","projectId":null}`} {
		s.submit("/a", body).is(t, "the project is "+what, 202, "")
		if project := s.latest()["projectId"]; project != "proj_a" {
			t.Errorf("the project is %s: stored with %v", what, project)
		}
	}
	s.submit("/any", `{"message":"m","projectId":"proj_c"}`).is(t, "any project where the directive has none", 202, "")
	if project := s.latest()["projectId"]; project != "proj_c" {
		t.Errorf("stored with %v", project)
	}
}

// TestLateRepeatUndoesNothing: a client that got no answer sends its update again,
// after somebody else has changed the feedback.
func TestLateRepeatUndoesNothing(t *testing.T) {
	s := newSite(t)
	s.twoProjects()
	for _, method := range []string{http.MethodPatch, http.MethodPut} {
		for _, c := range []struct{ what, body string }{{"a change", `{"status":"open"}`}, {"no change", `{"status":"new"}`}} {
			what := method + " with " + c.what
			id := strings.ToLower(strings.ReplaceAll(what, " ", "-"))
			s.submit("/a", `{"id":"`+id+`","message":"m"}`).is(t, what, 202, id)
			key := []string{"Idempotency-Key", "k"}
			first := s.update(method, "/a/"+id, "token-a", c.body, key...)
			first.is(t, what, 202, id)
			if first.Header.Get("Idempotency-Replayed") != "" {
				t.Errorf("%s: the first is called a repeat", what)
			}
			s.patch("/a/"+id, "token-a", `{"status":"closed"}`).is(t, what+", somebody else's change", 202, "closed")
			events := s.events()
			s.update(method, "/a/"+id, "token-a", c.body, key...).repeats(t, what+", again", first)
			if n := s.events(); n != events {
				t.Errorf("%s: the repeat made an event", what)
			}
			if status := s.latest()["status"]; status != "closed" {
				t.Errorf("%s: the repeat undid somebody else's change: %v", what, status)
			}
			s.update(method, "/a/"+id, "token-a", `{"status":"other"}`, key...).is(t, what+", another body", 422, "Idempotency-Key")
			s.update(method, "/a/"+id, "token-a", c.body+" ", key...).is(t, what+", other bytes", 422, "Idempotency-Key")
		}
	}
}

// TestKeyCountsPerProjectMethodAndFeedback: a key that was used elsewhere is free.
func TestKeyCountsPerProjectMethodAndFeedback(t *testing.T) {
	s := newSite(t)
	s.twoProjects()
	key := []string{"Idempotency-Key", "k"}
	free := func(what string, a answer) {
		t.Helper()
		if a.Status != 202 || a.Header.Get("Idempotency-Replayed") != "" {
			t.Errorf("%s: %d %s (replayed: %q)", what, a.Status, a.Body, a.Header.Get("Idempotency-Replayed"))
		}
	}
	free("a submission", s.submit("/a", `{"id":"x","message":"m"}`, key...))
	free("a submission to another project", s.submit("/b", `{"id":"x","message":"another"}`, key...))
	free("a submission to no project", s.submit("/any", `{"message":"a third"}`, key...))
	s.submit("/a", `{"id":"y","message":"m"}`).is(t, "another feedback", 202, "y")

	// What is refused binds none.
	s.patch("/a/none", "token-a", `{"status":"1"}`, key...).is(t, "an unknown id", 404, "")
	s.patch("/a/x", "wrong", `{"status":"1"}`, key...).is(t, "a wrong token", 403, "")
	s.patch("/a/x", "token-a", `{"rating":9}`, key...).is(t, "a wrong value", 422, "/rating")
	s.submit("/a", `{"id":"x","message":"taken"}`, "Idempotency-Key", "k2").is(t, "an id that is taken", 422, "/id")
	free("a submission with the key of what was refused", s.submit("/a", `{"message":"n"}`, "Idempotency-Key", "k2"))

	free("an update", s.patch("/a/x", "token-a", `{"status":"2"}`, key...))
	free("by another method", s.update(http.MethodPut, "/a/x", "token-a", `{"status":"3"}`, key...))
	free("of another feedback", s.patch("/a/y", "token-a", `{"status":"4"}`, key...))
	free("of another project's", s.patch("/b/x", "token-b", `{"status":"5"}`, key...))
	s.patch("/a/none", "token-a", `{"status":"6"}`, key...).is(t, "an unknown id, again", 404, "")
}

// TestFormsAreComparedByTheirValues: browsers draw a new boundary each time.
func TestFormsAreComparedByTheirValues(t *testing.T) {
	s := newSite(t)
	s.handle("/feedback", Config{})
	multipart := func(boundary, message string) answer {
		return s.do(http.MethodPost, "/feedback", fmt.Sprintf("--%[1]s\r\nContent-Disposition: form-data; name=\"message\"\r\n\r\n%[2]s\r\n--%[1]s--\r\n", boundary, message),
			"Content-Type", "multipart/form-data; boundary="+boundary, "Idempotency-Key", "k")
	}
	first := multipart("one", "hello you")
	first.is(t, "a form", 202, "fb_")
	multipart("two", "hello you").repeats(t, "another boundary", first)
	s.do(http.MethodPost, "/feedback", "message=hello+you", "Content-Type", "application/x-www-form-urlencoded", "Idempotency-Key", "k").repeats(t, "another coding", first)
	s.do(http.MethodPost, "/feedback", "message=hello%20you", "Content-Type", "application/x-www-form-urlencoded", "Idempotency-Key", "k").repeats(t, "another spelling", first)
	multipart("one", "hello").is(t, "another value", 422, "Idempotency-Key")
}

func TestUpdateWithoutProjectMustBeClear(t *testing.T) {
	s := newSite(t)
	s.twoProjects()
	s.submit("/a", `{"id":"both","message":"of a"}`).is(t, "a's feedback", 202, "both")
	s.submit("/b", `{"id":"both","message":"of b"}`).is(t, "b's feedback", 202, "both")
	s.submit("/a", `{"id":"only","message":"of a"}`).is(t, "a's other feedback", 202, "only")
	s.submit("/any", `{"id":"free","message":"of nobody"}`).is(t, "nobody's feedback", 202, "free")

	s.patch("/any/both", "token-any", `{"status":"x"}`).is(t, "several projects", 409, "projectId")
	s.patch("/any/only", "token-any", `{"status":"x"}`).is(t, "one project", 202, "only")
	s.patch("/any/free", "token-any", `{"status":"x"}`).is(t, "no project", 202, "free")
	s.patch("/any/none", "token-any", `{"status":"x"}`).is(t, "an unknown id", 404, "")
	s.patch("/any/only", "token-any", `{"status":"y","projectId":"proj_b"}`).is(t, "a project that does not hold it", 404, "")
	s.patch("/any/both", "token-any", `{"status":"y","projectId":null}`).is(t, "named to have none, and both have one", 404, "")
	s.patch("/any/both", "token-any", `{"status":"y","projectId":"proj_b"}`).is(t, "the project is named", 202, "both")
	if data := s.latest(); data["message"] != "of b" || data["projectId"] != "proj_b" {
		t.Errorf("the update carries %v", data)
	}
	s.submit("/any", `{"id":"both","message":"of nobody"}`).is(t, "nobody's feedback of the same id", 202, "both")
	s.patch("/any/both", "token-any", `{"status":"z","projectId":null}`).is(t, "named to have none", 202, "both")
	if data := s.latest(); data["message"] != "of nobody" || data["projectId"] != nil {
		t.Errorf("the update carries %v", data)
	}
}

// TestIDIsOneSegment: an encoded slash ends no segment.
func TestIDIsOneSegment(t *testing.T) {
	s := newSite(t)
	s.twoProjects()
	s.submit("/a", `{"id":"fb_1","message":"m"}`).is(t, "feedback", 202, "fb_1")
	for path, status := range map[string]int{"/a/x%2Ffb_1": 404, "/a/fb_1%2F": 404, "/a/%66b_1": 202, "/a/fb_1/": 202, "/a/sub/fb_1": 202, "/a/": 404} {
		s.patch(path, "token-a", `{"status":"`+path+`"}`).is(t, path, status, "")
	}
}

// TestRepeatsWithoutAnAnswer: earlier versions stored no answers. The answer follows
// from the event, and if that is gone too, the repeat makes no second one.
func TestRepeatsWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	body := []byte(`{"event":"feedback.created","data":{"id":"x","message":"m","status":"new","createdAt":"2026-01-07T15:30:00Z"}}`)
	for _, c := range []struct {
		event  queue.Event
		status int
		body   string
	}{
		{queue.Event{ID: queue.NewEventID(time.Now(), 1, 1), Body: body}, 202, `{"id":"x","status":"new","createdAt":"2026-01-07T15:30:00Z"}`},
		{queue.Event{}, 410, "has been removed"},
	} {
		h, err := New(Config{Relay: repeating{receipt: queue.Receipt{Event: c.event, Replayed: true}}, Observer: newCounts()})
		if err != nil {
			t.Fatal(err)
		}
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/", strings.NewReader(`{"message":"m"}`))
		r.Header.Set("Content-Type", "application/json")
		h.ServeHTTP(w, r)
		answer{w.Code, w.Header(), w.Body.String()}.is(t, "a repeat", c.status, c.body)
	}
}

// repeating is a Relay that takes everything for a repeat.
type repeating struct {
	Relay
	receipt queue.Receipt
}

// Accept implements Relay.
func (r repeating) Accept(context.Context, queue.Entry, http.Header) (queue.Receipt, error) {
	return r.receipt, nil
}
