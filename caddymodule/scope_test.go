package caddymodule

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/userhero/relay/queue"
)

// twoProjects are two directives with a project each, and one without.
const twoProjects = `
userhero /a* {
	project proj_a
	update_auth token-a
}
userhero /b* {
	project proj_b
	update_auth token-b
}
userhero /any* {
	update_auth token-any
}`

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

// events is how many events are stored.
func (s *site) events() int {
	s.t.Helper()
	return int(s.api("/status").json(s.t)["events"].(float64))
}

// latest is the newest event's data, as stored.
func (s *site) latest() map[string]any {
	s.t.Helper()
	newest := s.api("/events?limit=1").json(s.t)["items"].([]any)[0].(map[string]any)
	return s.api("/events/" + newest["id"].(string)).json(s.t)["body"].(map[string]any)["data"].(map[string]any)
}

func TestTokenOfOneProjectChangesNoOther(t *testing.T) {
	s := newSite(t)
	s.load("", twoProjects)
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
	s.load("", twoProjects)
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

// TestPostNeverReplaces: whoever knows an id must not become the one that updates
// go to.
func TestPostNeverReplaces(t *testing.T) {
	s := newSite(t)
	s.load("", twoProjects)
	const body = `{"id":"mine","message":"first"}`
	first := s.submit("/a", body)
	made := s.submit("/a", `{"message":"with an id made here"}`).json(t)["id"].(string)
	s.submit("/a", `{"id":"`+made+`","message":"with an id made here"}`).is(t, "an id that was made here", 422, `"pointer":"/id"`)
	check := func(when string) {
		t.Helper()
		s.submit("/a", body).repeats(t, when+", the same body", first)
		s.submit("/a", body, "Idempotency-Key", "of "+when).repeats(t, when+", the same body with a key", first)
		s.submit("/a", `{"id":"other","message":"m"}`, "Idempotency-Key", "of "+when).is(t, when+", another body with that key", 422, "Idempotency-Key")
		s.submit("/a", `{"id":"mine","message":"second"}`).is(t, when+", another body", 422, `"pointer":"/id"`)
		s.submit("/a", `{"id": "mine","message":"first"}`).is(t, when+", other bytes", 422, `"pointer":"/id"`)
		s.submit("/any", `{"id":"mine","message":"second","projectId":"proj_a"}`).is(t, when+", through another directive", 422, `"pointer":"/id"`)
		if n := s.api("/events?feedback_id=mine&project=proj_a").json(t)["items"].([]any); n[0].(map[string]any)["project_id"] != "proj_a" {
			t.Errorf("%s: %v", when, n)
		}
	}
	check("at once")
	s.patch("/a/mine", "token-a", `{"status":"done"}`).is(t, "an update", 202, "done")
	check("after an update")
	s.load("", "") // the store is closed
	s.load("", twoProjects)
	check("after a restart")
	if n := s.events(); n != 3 {
		t.Errorf("%d events, want 3", n)
	}
	s.submit("/any", `{"id":"mine","message":"of nobody"}`).is(t, "the same id without a project", 202, "mine")
	s.submit("/b", `{"id":"mine","message":"of b"}`).is(t, "the same id in another project", 202, "mine")
	s.patch("/a/mine", "token-a", `{"status":"again"}`).is(t, "an update after that", 202, "again")
	if data := s.latest(); data["message"] != "first" {
		t.Errorf("the update carries %v", data)
	}
}

// TestLateRepeatUndoesNothing: a client that got no answer sends its update again,
// after somebody else has changed the feedback.
func TestLateRepeatUndoesNothing(t *testing.T) {
	s := newSite(t)
	s.load("", twoProjects)
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
	s.load("", twoProjects)
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
	s.load("", intake)
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
	s.load("", twoProjects)
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
	s.load("", twoProjects)
	s.submit("/a", `{"id":"fb_1","message":"m"}`).is(t, "feedback", 202, "fb_1")
	for path, status := range map[string]int{"/a/x%2Ffb_1": 404, "/a/fb_1%2F": 404, "/a/%66b_1": 202, "/a/fb_1/": 202, "/a/sub/fb_1": 202, "/a/": 404} {
		s.patch(path, "token-a", `{"status":"`+path+`"}`).is(t, path, status, "")
	}
}

func TestProjectOfTheRequest(t *testing.T) {
	t.Setenv("ACME_TOKEN", "token-acme")
	s := newSite(t)
	s.load("", `
map {http.request.host.labels.1} {update_token} {
	acme {env.ACME_TOKEN}
	zoo  token-zoo
}
@hosts path /hosts*
userhero @hosts {
	project     {http.request.host.labels.1}
	widget      w_{http.request.host.labels.1}
	update_auth {update_token}
}
@paths path /t/*
userhero @paths {
	project {path.1}
}`)
	s.submit("/hosts", `{"id":"x","message":"of acme"}`, "Host", "acme.test").is(t, "acme", 202, "x")
	if data := s.latest(); data["projectId"] != "acme" || data["widgetId"] != "w_acme" {
		t.Errorf("stored with %v", data)
	}
	s.submit("/hosts", `{"id":"x","message":"of zoo"}`, "Host", "zoo.test").is(t, "zoo", 202, "x")
	s.submit("/hosts", `{"message":"m","projectId":"acme"}`, "Host", "zoo.test").is(t, "zoo's page names acme", 422, `"pointer":"/projectId"`)
	s.patch("/hosts/x", "token-acme", `{"status":"open"}`, "Host", "acme.test").is(t, "acme's token", 202, "open")
	if data := s.latest(); data["message"] != "of acme" {
		t.Errorf("the update carries %v", data)
	}
	s.patch("/hosts/x", "token-acme", `{"status":"stolen"}`, "Host", "zoo.test").is(t, "acme's token at zoo's host", 403, "")
	s.patch("/hosts/x", "token-zoo", `{"status":"stolen","projectId":"acme"}`, "Host", "zoo.test").is(t, "zoo's token for acme", 422, `"pointer":"/projectId"`)
	s.submit("/hosts", `{"id":"x","message":"of other"}`, "Host", "other.test").is(t, "a host without a token", 202, "x")
	for _, token := range []string{"", "token-acme", "{update_token}"} {
		s.patch("/hosts/x", token, `{"status":"stolen"}`, "Host", "other.test").is(t, "a host without a token", 403, "")
	}
	events := s.events()
	for _, method := range []string{http.MethodPost, http.MethodPatch, http.MethodPut} {
		s.update(method, "/hosts/x", "token-acme", `{"message":"m"}`, "Host", "test").is(t, method+" to a host without a label", 400, "no project")
		s.update(method, "/t//feedback", "token-acme", `{"message":"m"}`).is(t, method+" to a path without a segment", 400, "no project")
	}
	s.submit("/t/%FF/feedback", `{"message":"m"}`).is(t, "a project that is no UTF-8", 400, "no project")
	if n := s.events(); n != events {
		t.Errorf("%d events after what was refused, want %d", n, events)
	}
	s.submit("/t/acme/feedback", `{"id":"x","message":"another"}`).is(t, "an id that acme has", 422, `"pointer":"/id"`)
	s.submit("/t/globex/feedback", `{"id":"x","message":"m"}`).is(t, "a project by its path", 202, "x")
	if project := s.latest()["projectId"]; project != "globex" {
		t.Errorf("stored with %v", project)
	}
}

func TestPlaceholdersOfTheDirectiveAreChecked(t *testing.T) {
	t.Setenv("RELAY_PROJECT", "proj_env")
	t.Setenv("RELAY_EMPTY", "")
	s := newSite(t)
	for _, c := range []struct{ block, wrong string }{
		{"project {http.request.host.labels.2}\nupdate_auth fixed", "update_auth"},
		{"project {http.request.host.labels.2}\nupdate_auth {env.RELAY_PROJECT}", "update_auth"},
		{"project {env.RELAY_EMPTY}", "{env.RELAY_EMPTY}"},
		{"widget w{env.RELAY_EMPTY}", "{env.RELAY_EMPTY}"},
		{"update_auth {env.RELAY_EMPTY}", "{env.RELAY_EMPTY}"},
		{"project {http.request.host.labels.2}-{env.RELAY_EMPTY}", "{env.RELAY_EMPTY}"},
		{"project {http.request.host.labels.2}\nupdate_auth {http.vars.token}", ""},
		{"project {http.request.host.labels.2}", ""},
		{"project {env.RELAY_PROJECT}\nupdate_auth fixed", ""},
	} {
		err := caddy.Load(s.config("", "userhero /feedback* {\n"+c.block+"\n}"), true)
		switch {
		case c.wrong == "" && err != nil:
			t.Errorf("%q is refused: %v", c.block, err)
		case c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)):
			t.Errorf("%q: error %v, want one that names %s", c.block, err, c.wrong)
		}
	}
	s.load("", "userhero /feedback* {\nproject {env.RELAY_PROJECT}\n}")
	s.submit("/feedback", `{"message":"m"}`).is(t, "a project from the environment", 202, "")
	if project := s.latest()["projectId"]; project != "proj_env" {
		t.Errorf("stored with %v", project)
	}
}

// TestRepeatsWithoutAnAnswer: stores of before kept none. It follows from the event,
// and if that is gone too, the repeat makes no second one.
func TestRepeatsWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	h := &Handler{app: provisionedApp(t)}
	body := []byte(`{"event":"feedback.created","data":{"id":"x","message":"m","status":"new","createdAt":"2026-01-07T15:30:00Z"}}`)
	for _, c := range []struct {
		event  queue.Event
		status int
		body   string
	}{
		{queue.Event{ID: queue.NewEventID(time.Now(), 1, 1), Body: body}, 202, `{"id":"x","status":"new","createdAt":"2026-01-07T15:30:00Z"}`},
		{queue.Event{}, 410, "has been removed"},
	} {
		w := httptest.NewRecorder()
		h.replay(w, httptest.NewRequest(http.MethodPost, "/", nil), formatJSON, queue.Receipt{Event: c.event, Replayed: true})
		answer{w.Code, w.Header(), w.Body.String()}.is(t, "a repeat", c.status, c.body)
	}
}
