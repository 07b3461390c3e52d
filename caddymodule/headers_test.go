package caddymodule

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"testing"

	"github.com/userhero/relay/queue"
)

// edits are all ways in which a site can edit the header of an answer. One of them
// edits each value of each field in place, after the handler has set it. Server is
// deleted first, because Caddy v2.11.9 shares its value among all answers.
const edits = `
	header +Vary X-Added
	header ?X-Default yes
	header >X-Deferred yes
	header >* "$" "!"
	header -Server
`

// TestHeaderDirectiveEditsOneAnswerOnly sends each request twice. The header
// directive's edits of the first answer must not appear in the second.
func TestHeaderDirectiveEditsOneAnswerOnly(t *testing.T) {
	s, h := newSite(t), newHook(t)
	s.load(webhookTo(h), edits+`
	@feedback path /feedback /feedback/*
	userhero @feedback {
		allow_origin https://app.example.com
		update_auth token
		max_body 1KiB
	}
	userhero /any {
		allow_origin *
		honeypot trap
	}
	userhero /limited {
		rate_limit 1/h
	}
	userhero /app {
		allow_origin *
		passthrough
	}
	userhero_receiver /receiver
	handle_path /relay/* {
		userhero_console {
			no_auth
		}
	}
	handle_path /closed/* {
		userhero_console
	}
	respond /app "{}" 201
	`)
	s.do(http.MethodPost, "/limited", `{"message":"the one that is allowed"}`, jsonBody...)
	id := s.post(`{"message":"to be updated"}`).json(t)["id"].(string)
	long := `{"message":"` + string(slices.Repeat([]byte("x"), 2<<10)) + `"}`
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		header                   []string
	}{
		{"accepted", "POST", "/feedback", `{"message":"hi"}`, 202, []string{"Content-Type", "application/json", "Origin", "https://app.example.com"}},
		{"accepted from anywhere", "POST", "/any", `{"message":"hi"}`, 202, []string{"Content-Type", "application/json", "Origin", "https://a.example"}},
		{"replayed", "POST", "/feedback", `{"message":"hi"}`, 202, []string{"Content-Type", "application/json", "Idempotency-Key", "k"}},
		{"updated", "PATCH", "/feedback/" + id, `{"status":"done"}`, 202, []string{"Content-Type", "application/json", "Authorization", "Bearer token"}},
		{"trapped", "POST", "/any", `{"message":"hi","trap":"x"}`, 202, []string{"Content-Type", "application/json"}},
		{"form", "POST", "/feedback", "message=hi", 202, []string{"Content-Type", "application/x-www-form-urlencoded", "Accept", "text/html"}},
		{"form from a page", "POST", "/feedback", "message=hi", 303, []string{"Content-Type", "application/x-www-form-urlencoded", "Accept", "text/html", "Referer", "http://localhost/"}},
		{"not JSON", "POST", "/feedback", "{", 400, jsonBody},
		{"forbidden", "PATCH", "/feedback/" + id, `{"status":"done"}`, 403, jsonBody},
		{"unknown", "PATCH", "/feedback/fb_none", `{"status":"done"}`, 404, []string{"Content-Type", "application/json", "Authorization", "Bearer token"}},
		{"wrong method", "GET", "/feedback", "", 405, nil},
		{"too large", "POST", "/feedback", long, 413, jsonBody},
		{"media type", "POST", "/feedback", "x", 415, []string{"Content-Type", "image/png"}},
		{"invalid", "POST", "/feedback", `{}`, 422, jsonBody},
		{"limited", "POST", "/limited", `{"message":"hi"}`, 429, jsonBody},
		{"preflight", "OPTIONS", "/feedback", "", 204, []string{"Origin", "https://app.example.com", "Access-Control-Request-Method", "POST"}},
		{"preflight from anywhere", "OPTIONS", "/any", "", 204, []string{"Origin", "https://a.example", "Access-Control-Request-Method", "POST"}},
		{"passed through", "POST", "/app", `{"message":"hi"}`, 201, []string{"Content-Type", "application/json", "Origin", "https://a.example"}},
		{"receiver's page", "GET", "/receiver", "", 200, []string{"Accept", "text/html"}},
		{"receiver's list", "GET", "/receiver", "", 200, []string{"Accept", "application/json"}},
		{"receiver's answer", "POST", "/receiver", "{}", 204, jsonBody},
		{"receiver's refusal", "PUT", "/receiver", "", 405, nil},
		{"console", "GET", "/relay/", "", 200, []string{"Accept", "text/html"}},
		{"asset", "GET", "/relay/assets/console.css", "", 200, nil},
		{"API", "GET", "/relay/api/status", "", 200, nil},
		{"API's document", "GET", "/relay/api/openapi.json", "", 200, nil},
		{"API's problem", "GET", "/relay/api/webhooks/none", "", 404, nil},
		{"closed console", "GET", "/closed/", "", 403, []string{"Accept", "text/html"}},
		{"closed API", "GET", "/closed/api/status", "", 403, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &site{t: t, dir: s.dir, address: s.address, admin: s.admin}
			s.do(c.method, c.path, c.body, c.header...) // stores the key, makes the update
			first := s.do(c.method, c.path, c.body, c.header...)
			second := s.do(c.method, c.path, c.body, c.header...)
			if first.Status != c.status {
				t.Errorf("answered %d %s, want %d", first.Status, first.Body, c.status)
			}
			for _, name := range slices.Sorted(maps.Keys(second.Header)) {
				if name != "Date" && name != "Content-Length" && name != "Retry-After" && !slices.Equal(first.Header[name], second.Header[name]) {
					t.Errorf("%s was %q, is %q", name, first.Header[name], second.Header[name])
				}
			}
			if want := len(first.Header["Retry-After"]); want != len(second.Header["Retry-After"]) {
				t.Errorf("Retry-After was %q, is %q", first.Header["Retry-After"], second.Header["Retry-After"])
			}
		})
	}
}

// TestProblemsEditedOnceStayAsTheyWere does the same for the answers of a relay that
// has stopped. A running site does not give them.
func TestProblemsEditedOnceStayAsTheyWere(t *testing.T) {
	t.Parallel()
	for _, err := range []error{queue.ErrFull, queue.ErrFailed, queue.ErrClosed} {
		answer := func() http.Header {
			w := httptest.NewRecorder()
			stopped(w, httptest.NewRequest(http.MethodGet, "/", nil), "/", err)
			return w.Header()
		}
		first := answer()
		want := first.Clone()
		for _, values := range first {
			for i := range values {
				values[i] += "!"
			}
		}
		if again := answer(); !reflect.DeepEqual(again, want) {
			t.Errorf("%v: the header was %v, is %v", err, want, again)
		}
	}
}
