package intake

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
)

func TestAbsentContextComesFromRequest(t *testing.T) {
	s := newSite(t)
	s.handle("/feedback", Config{CountryHeader: "CF-IPCountry"})
	s.post(`{"message":"hi","context":{"locale":"fr","pageUrl":"/here"}}`,
		"Referer", "https://app.example.com/there", "Accept-Language", "de", "CF-IPCountry", "US",
		"User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:121.0) Gecko/20100101 Firefox/121.0")
	got := fmt.Sprint(s.await(1)[0].document(t).Data["context"])
	want := fmt.Sprint(map[string]any{
		"locale": "fr", "pageUrl": "/here", // as they came
		"browser": "Firefox", "browserVersion": "121", "os": "Linux", "deviceType": "desktop", "country": "US",
	})
	if got != want {
		t.Errorf("context %s\nwant    %s", got, want)
	}
}

// TestIntakeAnswers holds the table of requests and answers of one handler,
// over both versions of HTTP.
func TestIntakeAnswers(t *testing.T) {
	for version, c := range map[string]*http.Client{"HTTP 1": client, "HTTP 2": client2} {
		t.Run(version, func(t *testing.T) { testIntakeAnswers(t, c) })
	}
}

func testIntakeAnswers(t *testing.T, over *http.Client) {
	s := newSite(t)
	s.handle("/feedback", Config{MaxBody: 1 << 10})
	const multipart = "--xyz\r\nContent-Disposition: form-data; name=\"message\"\r\n\r\nfrom a form\r\n--xyz--\r\n"
	for _, c := range []struct {
		name, method, body string
		header             []string
		status             int
		detail             string // contained in the answer
	}{
		{"json", "POST", `{"message":"hi"}`, jsonBody, 202, `"status":"new"`},
		{"json with charset", "POST", `{"message":"hi"}`, []string{"Content-Type", "application/json;charset=UTF-8"}, 202, ""},
		{"beacon", "POST", `{"message":"hi"}`, []string{"Content-Type", "text/plain;charset=UTF-8"}, 202, ""},
		{"plain without charset", "POST", `{"message":"hi"}`, []string{"Content-Type", "text/plain"}, 202, ""},
		{"identity coding", "POST", `{"message":"hi"}`, append([]string{"Content-Encoding", "identity"}, jsonBody...), 202, ""},
		{"urlencoded form", "POST", `message=hi&rating=3&metadata.plan=pro`, []string{"Content-Type", "application/x-www-form-urlencoded"}, 202, ""},
		{"multipart form", "POST", multipart, []string{"Content-Type", "multipart/form-data; boundary=xyz"}, 202, ""},

		{"no json", "POST", `{"message":`, jsonBody, 400, `"status":400`},
		{"no body", "POST", ``, jsonBody, 400, ""},
		{"duplicate member", "POST", `{"message":"a","message":"b"}`, jsonBody, 400, ""},
		{"invalid UTF-8", "POST", "{\"message\":\"\xff\"}", jsonBody, 400, ""},
		{"message missing", "POST", `{}`, jsonBody, 422, `"pointer":"/message"`},
		{"message empty", "POST", `{"message":""}`, jsonBody, 422, `"pointer":"/message"`},
		{"rating too high", "POST", `{"message":"a","rating":6}`, jsonBody, 422, `"pointer":"/rating"`},
		{"no stable form", "POST", `{"message":"a","metadata":{"__proto__":1}}`, jsonBody, 422, `"errors"`},
		{"too large", "POST", `{"message":"` + strings.Repeat("a", 1100) + `"}`, jsonBody, 413, "1024"},
		{"no media type", "POST", `{"message":"hi"}`, nil, 415, ""},
		{"other media type", "POST", `<message/>`, []string{"Content-Type", "application/xml"}, 415, "application/xml"},
		{"other charset", "POST", `{"message":"hi"}`, []string{"Content-Type", "application/json; charset=utf-16"}, 415, "utf-16"},
		{"gzip", "POST", `{"message":"hi"}`, append([]string{"Content-Encoding", "gzip"}, jsonBody...), 415, "gzip"},
		{"form without message", "POST", `massage=hi`, []string{"Content-Type", "application/x-www-form-urlencoded"}, 422, `"pointer":"/message"`},
		{"form with file", "POST", strings.ReplaceAll(multipart, `name="message"`, `name="shot"; filename="a.png"`), []string{"Content-Type", "multipart/form-data; boundary=xyz"}, 422, "screenshotUrl"},
		{"form that breaks off", "POST", strings.TrimSuffix(multipart, "--xyz--\r\n"), []string{"Content-Type", "multipart/form-data; boundary=xyz"}, 400, "form"},
		{"form without boundary", "POST", multipart, []string{"Content-Type", "multipart/form-data"}, 400, "boundary"},
		{"key too long", "POST", `{"message":"hi"}`, append([]string{"Idempotency-Key", strings.Repeat("k", 256)}, jsonBody...), 400, "255"},

		{"get", "GET", "", nil, 405, "POST"},
		{"delete", "DELETE", "", nil, 405, ""},
		{"options", "OPTIONS", "", nil, 204, ""},
		{"update without token", "PATCH", `{"status":"done"}`, jsonBody, 403, "update_auth"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := s.doOver(over, c.method, "/feedback", c.body, c.header...)
			if a.Status != c.status || !strings.Contains(a.Body, c.detail) {
				t.Fatalf("%d %s, want %d with %q", a.Status, a.Body, c.status, c.detail)
			}
			switch {
			case c.status == 202:
				if got := a.Header.Get("Content-Type"); got != "application/json" {
					t.Errorf("Content-Type %s", got)
				}
			case c.status >= 400:
				if got := a.Header.Get("Content-Type"); got != "application/problem+json" {
					t.Errorf("Content-Type %s", got)
				}
				problem := a.json(t)
				if problem["status"] != float64(c.status) || problem["title"] == "" || problem["detail"] == nil {
					t.Errorf("problem %s", a.Body)
				}
			}
			if allow := a.Header.Get("Allow"); (c.status == 405) != (allow != "") && c.method != "OPTIONS" {
				t.Errorf("Allow: %q", allow)
			}
		})
	}
}

func TestBodyWithoutLengthIsBounded(t *testing.T) {
	s := newSite(t)
	s.handle("/feedback", Config{MaxBody: 1 << 10})
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, err = fmt.Fprintf(conn, "POST /feedback HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n800\r\n{\"message\":\"%s\r\n", s.address, strings.Repeat("a", 0x800-12))
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("status %d before the body's end, want 413", res.StatusCode)
	}
}

func TestBrowsersMaySubmitFromAllowedOrigins(t *testing.T) {
	s := newSite(t)
	s.handle("/feedback", Config{AllowOrigins: []string{"https://app.example.com", "http://localhost:5173"}})
	s.handle("/open", Config{AllowOrigins: []string{"*"}})
	preflight := func(path, origin string) answer {
		return s.do(http.MethodOptions, path, "", "Origin", origin, "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "content-type")
	}
	for _, c := range []struct{ path, origin, allowed string }{
		{"/feedback", "https://app.example.com", "https://app.example.com"},
		{"/feedback", "http://localhost:5173", "http://localhost:5173"},
		{"/feedback", "https://app.example.com.evil.test", ""},
		{"/feedback", "http://app.example.com", ""},
		{"/feedback", "null", ""},
		{"/open", "https://anyone.test", "*"},
	} {
		for kind, a := range map[string]answer{
			"preflight":  preflight(c.path, c.origin),
			"submission": s.do(http.MethodPost, c.path, `{"message":"hi"}`, append([]string{"Origin", c.origin}, jsonBody...)...),
			"refusal":    s.do(http.MethodPost, c.path, `{}`, append([]string{"Origin", c.origin}, jsonBody...)...),
		} {
			if got := a.Header.Get("Access-Control-Allow-Origin"); got != c.allowed {
				t.Errorf("%s from %s to %s: allowed origin %q, want %q", kind, c.origin, c.path, got, c.allowed)
			}
			if a.Header.Get("Access-Control-Allow-Credentials") != "" {
				t.Errorf("%s from %s: credentials are allowed", kind, c.origin)
			}
			if varies := strings.Contains(strings.Join(a.Header.Values("Vary"), ", "), "Origin"); varies != (c.path == "/feedback") {
				t.Errorf("%s from %s to %s: Vary %q", kind, c.origin, c.path, a.Header.Values("Vary"))
			}
			if kind == "preflight" {
				if a.Status != http.StatusNoContent {
					t.Errorf("preflight from %s: %d", c.origin, a.Status)
				}
				if got := a.Header.Get("Access-Control-Allow-Methods"); (got != "") != (c.allowed != "") {
					t.Errorf("preflight from %s: methods %q", c.origin, got)
				}
			}
		}
	}
}

func TestRepeatGivesFirstAnswer(t *testing.T) {
	s := newSite(t)
	s.handle("/feedback", Config{})
	for _, c := range []struct {
		name, body, other string
		header            []string
	}{
		{"key", `{"message":"once"}`, `{"message":"other"}`, []string{"Idempotency-Key", "k1"}},
		{"client's id", `{"id":"fb_mine","message":"once"}`, `{"id":"fb_mine","message":"other"}`, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			first, again := s.post(c.body, c.header...), s.post(c.body, c.header...)
			if first.Status != 202 || again.Status != 202 || first.Body != again.Body {
				t.Errorf("first %d %s, again %d %s", first.Status, first.Body, again.Status, again.Body)
			}
			if first.Header.Get("Idempotency-Replayed") != "" || again.Header.Get("Idempotency-Replayed") != "true" {
				t.Errorf("replayed: first %q, again %q", first.Header.Get("Idempotency-Replayed"), again.Header.Get("Idempotency-Replayed"))
			}
			if a := s.post(c.other, c.header...); a.Status != 422 {
				t.Errorf("another body: %d %s", a.Status, a.Body)
			}
		})
	}
	s.await(2)
	if n := s.events(); n != 2 {
		t.Errorf("%d events, want 2", n)
	}
}

// TestRepeatOfABegunSubmissionIsStoredAsItsFeedback: the relay that took the submission first
// was killed. A client's own id stays.
func TestRepeatOfABegunSubmissionIsStoredAsItsFeedback(t *testing.T) {
	s := newSite(t)
	s.handle("/feedback", Config{})
	s.store.begun = "fb_begun"
	a := s.post(`{"message":"again"}`, "Idempotency-Key", "k1")
	if a.Status != 202 || a.json(t)["id"] != "fb_begun" {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	if e := s.await(1)[0]; e.Feedback.ID != "fb_begun" || !strings.Contains(string(e.Body), `"data":{"id":"fb_begun"`) {
		t.Errorf("stored as %s: %s", e.Feedback, e.Body)
	}
	s.store.begun = "fb_begun"
	if a := s.post(`{"id":"fb_mine","message":"again"}`, "Idempotency-Key", "k2"); a.Status != 503 {
		t.Errorf("a client's own id: %d %s", a.Status, a.Body)
	}
}

func TestUpdateSendsMergedFeedback(t *testing.T) {
	s := newSite(t)
	s.handle("/feedback", Config{Token: fixed("let-me-in")})
	id := s.post(`{"message":"slow","metadata":{"plan":"pro","team":"a"}}`).json(t)["id"].(string)
	token := append([]string{"Authorization", "Bearer let-me-in"}, jsonBody...)

	a := s.do(http.MethodPatch, "/feedback/"+id, `{"status":"done","metadata":{"team":null},"assignee":"ann"}`, token...)
	if a.Status != 202 || a.json(t)["status"] != "done" {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	var updated map[string]any
	for _, arrived := range s.await(2) {
		if doc := arrived.document(t); doc.Event == "feedback.updated" {
			updated = doc.Data
		}
	}
	if updated["message"] != "slow" || updated["status"] != "done" || updated["assignee"] != "ann" || fmt.Sprint(updated["metadata"]) != "map[plan:pro]" {
		t.Errorf("updated data: %v", updated)
	}

	for _, c := range []struct {
		name, path string
		header     []string
		body       string
		status     int
	}{
		{"wrong token", id, append([]string{"Authorization", "Bearer let-me-in2"}, jsonBody...), `{"status":"x"}`, 403},
		{"no token", id, jsonBody, `{"status":"x"}`, 403},
		{"unknown id", "fb_unknown", token, `{"status":"x"}`, 404},
		{"fixed member", id, token, `{"id":"fb_other"}`, 422},
		{"no change", id, token, `{"status":"done"}`, 202},
	} {
		if a := s.do(http.MethodPut, "/feedback/"+c.path, c.body, c.header...); a.Status != c.status {
			t.Errorf("%s: %d %s, want %d", c.name, a.Status, a.Body, c.status)
		}
	}
	if n := s.events(); n != 2 {
		t.Errorf("%d events, want 2", n)
	}
}
