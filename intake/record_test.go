package intake

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// sidecar is a site with passthrough before an application that answers as it is
// told.
type sidecar struct {
	*site
	answer http.HandlerFunc // of the application; the body has been read
	got    []byte           // the body that the application got last
}

func newSidecar(t *testing.T, c Config) *sidecar {
	t.Helper()
	s := &sidecar{site: newSite(t)}
	s.watch(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.got, _ = io.ReadAll(r.Body)
		s.answer(w, r)
	}), c)
	return s
}

// will makes the application answer with this text; header is name, value, …
func (s *sidecar) will(status int, text string, header ...string) {
	s.answer = func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Add(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}
}

// last is the newest event as TYPE and the members of its data, without those
// that the request or the clock gives.
func (s *sidecar) last() string {
	s.t.Helper()
	events := s.events()
	if len(events) == 0 {
		return "none"
	}
	return events[0]
}

// events are all events, newest first, as last shows them.
func (s *sidecar) events() []string {
	s.t.Helper()
	var events []string
	for _, e := range slices.Backward(s.stored()) {
		var document struct{ Data map[string]json.RawMessage }
		if err := json.Unmarshal(e.Body, &document); err != nil {
			s.t.Fatal(err)
		}
		data := document.Data
		if strings.HasPrefix(string(data["id"]), `"fb_`) {
			data["id"] = json.RawMessage(`"fb_…"`)
		}
		if string(data["createdAt"]) > `"2026-01-08` || string(data["createdAt"]) < `"2026` {
			delete(data, "createdAt") // now
		}
		if string(data["context"]) == `{"browser":"Go-http-client"}` || !bytes.Contains(data["context"], []byte("pageUrl")) {
			delete(data, "context")
		}
		text, err := json.Marshal(data)
		if err != nil {
			s.t.Fatal(err)
		}
		events = append(events, strings.TrimPrefix(e.Type, "feedback.")+" "+string(text))
	}
	return events
}

func gzipped(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestVisitorsWordsAreNeverThoseOfTheApp: whatever an application answers, the
// event has the visitor's words, and the client gets the answer as it is.
func TestVisitorsWordsAreNeverThoseOfTheApp(t *testing.T) {
	s := newSidecar(t, Config{})
	const words = `"category":"bug",%s"message":"The export fails","metadata":{"plan":"pro"},"rating":2,"status":"%s"}`
	visitor := `{"message":"The export fails","category":"bug","rating":2,"metadata":{"plan":"pro"}}`
	appJSON := []string{"Content-Type", "application/json; charset=utf-8"}
	for _, c := range []struct {
		name   string
		status int
		answer string
		header []string
		id     string
		want   string // the status
	}{
		{"Laravel's thanks", 200, `{"success":true,"message":"Thank you for your feedback!"}`, appJSON, "fb_…", "new"},
		{"jsend", 200, `{"status":"success","data":null}`, appJSON, "fb_…", "new"},
		{"its own words", 201, `{"id":"a1","status":"open","message":"Thanks","metadata":{"source":"app"},"rating":5}`, appJSON, "a1", "open"},
		{"a resource", 201, `{"data":{"id":42,"message":"The export fails"}}`, appJSON, "42", "new"},
		{"a snowflake", 201, `{"id":1234567890123456789,"author":{"id":1234567890123456790}}`, appJSON, "1234567890123456789", "new"},
		{"JSON:API", 201, `{"data":{"id":"43","type":"feedback","attributes":{"status":"x"}}}`, []string{"Content-Type", "application/vnd.api+json"}, "43", "new"},
		{"a type with a bare parameter", 201, `{"id":"a2"}`, []string{"Content-Type", "application/json; utf-8"}, "a2", "new"},
		{"PHP's default type", 200, "\n" + `{"id":"a3"}`, []string{"Content-Type", "text/html; charset=UTF-8"}, "a3", "new"},
		{"no content", 204, ``, nil, "fb_…", "new"},
		{"a location", 201, ``, []string{"Location", "/api/feedback/44"}, "fb_…", "new"},
		{"a page", 200, "<!doctype html><p>Thank you, {name}", []string{"Content-Type", "text/html"}, "fb_…", "new"},
		{"an id that is none", 201, `{"id":"gid://app/Feedback/1","status":"open"}`, appJSON, "fb_…", "new"},
		{"a long one", 201, `{"id":"a4","log":"` + strings.Repeat("x", 4<<20) + `"}`, appJSON, "a4", "new"},
		{"a long page", 200, strings.Repeat("<p>x", 1<<20), []string{"Content-Type", "text/html"}, "fb_…", "new"},
		{"gzip", 201, gzipped(t, `{"id":"a5"}`), append([]string{"Content-Encoding", "gzip"}, appJSON...), "a5", "new"},
		{"gzip that is none", 201, `{"id":"a6"}`, append([]string{"Content-Encoding", "gzip"}, appJSON...), "fb_…", "new"},
		{"br", 201, "\x0b\x05\x80{\"id\":\"a7\"}\x03", append([]string{"Content-Encoding", "br"}, appJSON...), "fb_…", "new"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.will(c.status, c.answer, c.header...)
			a := s.do(http.MethodPost, "/api/feedback", visitor, append([]string{"Accept-Encoding", "gzip, br"}, jsonBody...)...)
			if a.Status != c.status || a.Body != c.answer {
				t.Errorf("the client got %d and %d bytes that begin with %.100q", a.Status, len(a.Body), a.Body)
			}
			if string(s.got) != visitor {
				t.Errorf("the app got %q", s.got)
			}
			id := `"id":"` + c.id + `",`
			if want := "created {" + fmt.Sprintf(words, id, c.want); s.last() != want {
				t.Errorf("the event is %s, want %s", s.last(), want)
			}
		})
	}
	if m := s.missed(); m != "" {
		t.Errorf("missed: %s", m)
	}
	if !strings.Contains(s.log(), "/id: has a character") {
		t.Error("nothing is logged of an id that feedback cannot have")
	}
}

func TestAppsUpdatesAreThoseOfTheFeedback(t *testing.T) {
	s := newSidecar(t, Config{})
	s.will(201, `{"id":42,"status":"open","createdAt":"2026-01-07T15:30:00.123Z"}`, jsonBody...)
	s.do(http.MethodPost, "/api/feedback", `{"message":"m","category":"bug","metadata":{"plan":"pro"}}`, jsonBody...)
	const head, tail = `updated {`, `"createdAt":"2026-01-07T15:30:00Z","id":"42","message":"m","metadata":{"plan":"pro"},`
	for _, c := range []struct{ name, method, path, body, answer, want string }{
		{"no representation", "PATCH", "/api/feedback/42", `{"status":"a"}`, `{"success":true,"message":"Updated","status":"success"}`,
			head + `"category":"bug",` + tail + `"status":"a"}`},
		{"the app's status", "PATCH", "/api/feedback/42", `{"status":"b"}`, `{"id":42,"status":"closed"}`, head + `"category":"bug",` + tail + `"status":"closed"}`},
		{"a path that goes on", "PATCH", "/api/feedback/42/status", `{"status":"c"}`, ``, head + `"category":"bug",` + tail + `"status":"c"}`},
		{"a path that ends with a slash", "PUT", "/api/feedback/42/", `{"status":"d"}`, ``, head + `"category":"bug",` + tail + `"status":"d"}`},
		{"a path without the id", "PATCH", "/api/feedback/current", `{"status":"e"}`, `{"data":{"id":"42"}}`, head + `"category":"bug",` + tail + `"status":"e"}`},
		{"the whole, sent back", "PUT", "/api/feedback/42", `{"id":42,"projectId":null,"message":"m","createdAt":"2026-01-07T15:30:00.123Z","status":"f"}`,
			`{"id":42,"createdAt":"2020-01-01T00:00:00Z","category":null}`, head + tail + `"status":"f"}`},
		{"a change that cannot be read", "PATCH", "/api/feedback/42", `{"rating":"high"}`, `{"id":42,"rating":5}`, head + tail + `"rating":5,"status":"f"}`},
		{"no body", "PUT", "/api/feedback/42/close", ``, `{"id":42,"status":"g"}`, head + tail + `"rating":5,"status":"g"}`},
		{"a POST", "POST", "/api/feedback/42/close", `{"rating":4}`, `{"id":42,"status":"h"}`, head + tail + `"rating":4,"status":"h"}`},
		{"a POST without a body", "POST", "/api/feedback/42/reopen", ``, `{"id":42,"status":"i","message":"Reopened"}`, head + tail + `"rating":4,"status":"i"}`},
		{"of one that is not held", "PATCH", "/api/feedback/7", `{"note":"n","status":"x"}`, `{"id":7,"message":"before the relay","status":"done"}`,
			head + `"id":"7","message":"before the relay","note":"n","status":"done"}`},
		{"of that one again", "PATCH", "/api/feedback/7", `{"status":"y"}`, `{"id":7,"message":"before the relay","status":"y"}`,
			head + `"id":"7","message":"before the relay","note":"n","status":"y"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.will(200, c.answer, jsonBody...)
			if a := s.do(c.method, c.path, c.body, jsonBody...); a.Status != 200 || a.Body != c.answer {
				t.Errorf("the client got %d %s", a.Status, a.Body)
			}
			if s.last() != c.want {
				t.Errorf("the event is %s, want %s", s.last(), c.want)
			}
		})
	}
	if m := s.missed(); m != "" {
		t.Errorf("missed: %s", m)
	}
}

// TestPOSTThatNamesHeldFeedbackChangesIt: applications that join what one visitor
// says answer with the same id again.
func TestPOSTThatNamesHeldFeedbackChangesIt(t *testing.T) {
	s := newSidecar(t, Config{Project: fixed("p")})
	post := func(body string, want string) {
		t.Helper()
		s.do(http.MethodPost, "/api/feedback", body, jsonBody...)
		if s.last() != want {
			t.Errorf("%s makes %s, want %s", body, s.last(), want)
		}
	}
	s.will(201, `{"id":"a","status":"open","createdAt":"2026-01-07T15:30:00Z"}`, jsonBody...)
	post(`{"message":"first","rating":2,"metadata":{"x":1}}`,
		`created {"createdAt":"2026-01-07T15:30:00Z","id":"a","message":"first","metadata":{"x":1},"projectId":"p","rating":2,"status":"open"}`)
	s.will(200, `{"id":"a","status":"seen","message":"joined","createdAt":"2026-01-07T16:00:00Z"}`, jsonBody...)
	post(`{"id":"mine","message":"second","metadata":{"y":2}}`,
		`updated {"createdAt":"2026-01-07T15:30:00Z","id":"a","message":"second","metadata":{"x":1,"y":2},"projectId":"p","rating":2,"status":"seen"}`)

	s.will(204, "")
	post(`{"id":"mine","message":"my own id"}`, `created {"id":"mine","message":"my own id","projectId":"p","status":"new"}`)
	post(`{"id":"mine","message":"again"}`, `created {"id":"fb_…","message":"again","projectId":"p","status":"new"}`)
	if m := s.missed(); m != "" {
		t.Errorf("missed: %s", m)
	}
}

// TestPOSTsAtOnceOfOneFeedbackAllCount: the application gives all of them the same
// id, so one creates the feedback and the others change it.
func TestPOSTsAtOnceOfOneFeedbackAllCount(t *testing.T) {
	const posts = 16
	s := &sidecar{site: newSite(t)}
	s.watch(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"id":"one"}`)
	}), Config{})
	var wg sync.WaitGroup
	for i := range posts {
		wg.Go(func() {
			a, err := request(http.MethodPost, "http://"+s.address+"/", fmt.Sprintf(`{"message":"m","metadata":{"n%02d":%d}}`, i, i), jsonBody...)
			if err != nil || a.Status != 200 {
				t.Errorf("%v %v", a, err)
			}
		})
	}
	wg.Wait()
	events := s.events()
	created := slices.DeleteFunc(slices.Clone(events), func(e string) bool { return !strings.HasPrefix(e, "created") })
	if len(events) != posts || len(created) != 1 {
		t.Errorf("%d events, %d of them creations", len(events), len(created))
	}
	if n := strings.Count(events[0], `"n0`) + strings.Count(events[0], `"n1`); n != posts {
		t.Errorf("%d of %d words are left: %s", n, posts, events[0])
	}
}

// TestRefusalBeforeTheAppIsReadableByAllowedOrigins: a page must be able to tell a
// limit from a network that is down.
func TestRefusalBeforeTheAppIsReadableByAllowedOrigins(t *testing.T) {
	s := newSidecar(t, Config{AllowOrigins: []string{"https://app.example.com"}, ClientLimit: &Limit{Events: 1, Per: time.Minute, Burst: 1}})
	s.will(204, "")
	header := append([]string{"Origin", "https://app.example.com"}, jsonBody...)
	s.do(http.MethodPost, "/", `{"message":"m"}`, header...)
	a := s.do(http.MethodPost, "/", `{"message":"m"}`, header...)
	if a.Status != http.StatusTooManyRequests || a.Header.Get("Access-Control-Allow-Origin") != "https://app.example.com" {
		t.Errorf("%d %v", a.Status, a.Header)
	}
	if len(s.events()) != 1 || s.missed() != "" {
		t.Errorf("events: %q, missed: %s", s.events(), s.missed())
	}
}
