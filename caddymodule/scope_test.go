package caddymodule

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// twoProjects has two directives with a project each, and one without a project.
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

// is checks an answer's status and that its body contains a text.
func (a answer) is(t *testing.T, what string, status int, contains string) {
	t.Helper()
	if a.Status != status || !strings.Contains(a.Body, contains) {
		t.Errorf("%s: %d %s, want %d with %q", what, a.Status, a.Body, status, contains)
	}
}

// repeats checks that an answer equals the first one.
func (a answer) repeats(t *testing.T, what string, first answer) {
	t.Helper()
	if a.Status != first.Status || a.Body != first.Body || a.Header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("%s: %d %s (replayed: %q), want the first answer %d %s", what, a.Status, a.Body, a.Header.Get("Idempotency-Replayed"), first.Status, first.Body)
	}
}

// events returns the number of stored events.
func (s *site) events() int {
	s.t.Helper()
	return int(s.api("/status").json(s.t)["events"].(float64))
}

// latest returns the stored data of the newest event.
func (s *site) latest() map[string]any {
	s.t.Helper()
	newest := s.api("/events?limit=1").json(s.t)["items"].([]any)[0].(map[string]any)
	return s.api("/events/" + newest["id"].(string)).json(s.t)["body"].(map[string]any)["data"].(map[string]any)
}

// TestPostNeverReplaces: a POST with the id of an existing feedback does not replace
// it. Otherwise a client that knows the id could make later updates change its own
// submission.
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

	t.Setenv("UPDATE_TOKEN", "let-me-in\n") // files of secrets end with a newline
	s.load("", "userhero /feedback* {\nupdate_auth {env.UPDATE_TOKEN}\n}")
	s.submit("/feedback", `{"id":"x","message":"m"}`).is(t, "feedback", 202, "x")
	s.patch("/feedback/x", "let-me-in", `{"status":"done"}`).is(t, "a token from the environment", 202, "done")
}

// TestPassthroughKeepsToTheProjectOfTheRequest: before an application that answers for
// several projects, feedback belongs to the project of the request. What the
// application says of another project makes no event, and a request without a project
// does not reach it.
func TestPassthroughKeepsToTheProjectOfTheRequest(t *testing.T) {
	s := newSite(t)
	var reached atomic.Int64
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, r.Header.Get("Answer")) // the client is the test
	}))
	defer app.Close()
	s.load("", `
userhero /p/* {
	passthrough
	project {path.1}
	widget  w_{path.1}
}
reverse_proxy `+app.Listener.Addr().String())
	s.submit("/p/acme/feedback", `{"message":"of acme"}`, "Answer", `{"id":"1"}`).is(t, "acme", 201, `"1"`)
	if data := s.latest(); data["projectId"] != "acme" || data["widgetId"] != "w_acme" || data["id"] != "1" {
		t.Errorf("stored is %v", data)
	}
	s.submit("/p/globex/feedback", `{"message":"of globex"}`, "Answer", `{"id":"1"}`).is(t, "globex, with the same id", 201, `"1"`)
	s.update(http.MethodPatch, "/p/globex/feedback/1", "", `{"status":"done"}`, "Answer", `{"id":"1","status":"done"}`).is(t, "an update of globex", 201, "done")
	if data := s.latest(); data["projectId"] != "globex" || data["message"] != "of globex" || data["status"] != "done" {
		t.Errorf("the update carries %v", data)
	}
	events, asked := s.events(), reached.Load()
	s.submit("/p/globex/feedback", `{"message":"m"}`, "Answer", `{"id":"2","projectId":"acme"}`).is(t, "an answer that names acme", 201, "acme")
	s.submit("/p/globex/feedback", `{"message":"m","projectId":"acme"}`, "Answer", `{}`).is(t, "a submission that names acme", 201, "")
	if n := s.events(); n != events {
		t.Errorf("%d events after what names another project, want %d", n, events)
	}
	if n := reached.Load(); n != asked+2 {
		t.Errorf("the application got %d requests, want %d", n, asked+2)
	}
	for _, path := range []string{"/p//feedback", "/p/%FF/feedback"} {
		s.submit(path, `{"message":"m"}`).is(t, path, 400, "no project")
	}
	if n := reached.Load(); n != asked+2 {
		t.Error("a request without a project reached the application")
	}
}
