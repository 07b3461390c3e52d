package intake

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/userhero/relay/queue"
)

// passthroughSite is a site with the given application behind the directive.
func passthroughSite(t *testing.T, app http.HandlerFunc) *site {
	t.Helper()
	s := newSite(t)
	s.watch(app, Config{MaxBody: 1 << 10})
	return s
}

func TestAppsAnswerMakesTheEvent(t *testing.T) {
	for _, c := range []struct{ name, answer string }{
		{"bare", `{"id":"app-1","status":"triaged","createdAt":"2026-01-07T15:30:00Z","other":true}`},
		{"under data", `{"data":{"id":"app-1","status":"triaged","createdAt":"2026-01-07T15:30:00Z"}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := make(chan string, 1)
			s := passthroughSite(t, func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				got <- string(b)
				w.Header().Set("Content-Type", "application/json")
				w.Header().Set("X-App", "yes")
				w.WriteHeader(http.StatusCreated)
				_, _ = io.WriteString(w, c.answer)
			})
			const body = `{ "message" : "hi" , "status":"mine" }`
			a := s.do(http.MethodPost, "/api/feedback", body, jsonBody...)
			if a.Status != http.StatusCreated || a.Body != c.answer || a.Header.Get("X-App") != "yes" {
				t.Errorf("the client got %d %s %v", a.Status, a.Body, a.Header)
			}
			if b := <-got; b != body {
				t.Errorf("the app got %q", b)
			}
			data := s.await(1)[0].document(t).Data
			if data["id"] != "app-1" || data["status"] != "triaged" || data["createdAt"] != "2026-01-07T15:30:00Z" || data["message"] != "hi" {
				t.Errorf("event: %v", data)
			}
		})
	}
}

func TestAppsUpdateIsMerged(t *testing.T) {
	s := passthroughSite(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.Method == http.MethodPost {
			_, _ = io.WriteString(w, `{"id":"app-1"}`)
		}
	})
	s.do(http.MethodPost, "/api/feedback", `{"message":"hi"}`, jsonBody...)
	if a := s.do(http.MethodPatch, "/api/feedback/app-1", `{"status":"done"}`, jsonBody...); a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	if a := s.do(http.MethodPatch, "/api/feedback/unknown", `{"status":"done"}`, jsonBody...); a.Status != 200 {
		t.Errorf("an update of what the relay does not hold: %d %s", a.Status, a.Body)
	}
	statuses := make(map[string]any)
	for _, arrived := range s.await(2) {
		doc := arrived.document(t)
		statuses[doc.Event] = doc.Data["status"]
	}
	if statuses["feedback.updated"] != "done" {
		t.Errorf("statuses: %v", statuses)
	}
}

func TestOtherAnswersPassUntouched(t *testing.T) {
	s := passthroughSite(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/refused":
			w.Header().Set("X-App", "no")
			w.WriteHeader(http.StatusTeapot)
			_, _ = io.WriteString(w, "short and stout")
		case "/echo":
			b, _ := io.ReadAll(r.Body) // whole, because net/http discards the rest when the answer begins
			_, _ = w.Write(b)
		case "/trailer":
			w.Header().Set("Trailer", "X-Sum")
			_, _ = io.WriteString(w, "body")
			w.Header().Set("X-Sum", "42")
		}
	})
	if a := s.do(http.MethodPost, "/refused", `{"message":"hi"}`, jsonBody...); a.Status != 418 || a.Body != "short and stout" || a.Header.Get("X-App") != "no" {
		t.Errorf("refused: %d %s", a.Status, a.Body)
	}
	for name, body := range map[string]string{
		"no feedback": `{"text":"no message"}`,
		"no json":     `}{`,
		"too large":   `{"message":"` + strings.Repeat("a", 5000) + `"}`,
	} {
		if a := s.do(http.MethodPost, "/echo", body, jsonBody...); a.Status != 200 || a.Body != body {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
		}
	}
	if a := s.do(http.MethodPost, "/echo", "<x/>", "Content-Type", "application/xml"); a.Body != "<x/>" {
		t.Errorf("xml: %d %s", a.Status, a.Body)
	}
	if n := s.events(); n != 0 {
		t.Errorf("%d events from what was no accepted feedback", n)
	}

	req, err := http.NewRequest(http.MethodPost, "http://"+s.address+"/trailer", strings.NewReader(`{"message":"hi"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil || string(body) != "body" || res.Trailer.Get("X-Sum") != "42" {
		t.Errorf("trailer: %q %v %v", body, res.Trailer, err)
	}
	s.await(1)
}

func TestAppsAnswerIsReadableByAllowedOrigins(t *testing.T) {
	s := newSite(t)
	s.watch(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/own" {
			w.Header().Set("Access-Control-Allow-Origin", "https://own.example.com")
		}
	}), Config{AllowOrigins: []string{"https://app.example.com"}})
	for path, want := range map[string]string{"/": "https://app.example.com", "/own": "https://own.example.com"} {
		a := s.do(http.MethodPost, path, `{"message":"hi"}`, append([]string{"Origin", "https://app.example.com"}, jsonBody...)...)
		if got := a.Header.Values("Access-Control-Allow-Origin"); len(got) != 1 || got[0] != want {
			t.Errorf("%s: allowed origins %q, want %q", path, got, want)
		}
	}
	a := s.do(http.MethodOptions, "/", "", "Origin", "https://app.example.com", "Access-Control-Request-Method", "POST")
	if a.Status != http.StatusNoContent || a.Header.Get("Access-Control-Allow-Methods") == "" {
		t.Errorf("preflight: %d %v", a.Status, a.Header)
	}
}

func TestLargeAnswerStreamsAfterTheEvent(t *testing.T) {
	wait := make(chan struct{})
	s := passthroughSite(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: first\n\n")
		w.(http.Flusher).Flush()
		<-wait
		_, _ = io.WriteString(w, "data: last\n\n")
	})
	req, err := http.NewRequest(http.MethodPost, "http://"+s.address+"/", strings.NewReader(`{"message":"hi"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	lines := bufio.NewReader(res.Body)
	first, err := lines.ReadString('\n')
	if err != nil || first != "data: first\n" {
		t.Errorf("first line %q %v", first, err)
	}
	s.await(1) // while the answer is still under way
	close(wait)
	rest, err := io.ReadAll(lines)
	if err != nil || !strings.Contains(string(rest), "last") {
		t.Errorf("rest %q %v", rest, err)
	}
}

func TestUpgradesAreLeftAlone(t *testing.T) {
	s := passthroughSite(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_ = rw.Flush()
		line, _ := rw.ReadString('\n')
		_, _ = rw.WriteString(line)
		_ = rw.Flush()
	})
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v %v", res, err)
	}
	if _, err := io.WriteString(conn, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := r.ReadString('\n'); err != nil || line != "hello\n" {
		t.Errorf("echo: %q %v", line, err)
	}
}

func TestRefusalHoldsNothingOfTheAppsAnswer(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	w.Header().Set("X-Outer", "stays")
	g := newGate(w, func([]byte) error { return queue.ErrClosed })
	g.Header().Set("Set-Cookie", "app=1")
	g.Header().Set("Content-Type", "application/json")
	g.Header().Set("Content-Length", "12")
	g.WriteHeader(http.StatusCreated)
	if n, err := io.WriteString(g, `{"id":"a-1"}`); n != 12 || err != nil {
		t.Errorf("a write was answered %d %v", n, err)
	}
	g.finish()
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || w.Header().Get("X-Outer") != "stays" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	if w.Header().Get("Set-Cookie") != "" || w.Header().Get("Content-Length") == "12" || strings.Contains(w.Body.String(), "a-1") {
		t.Errorf("the app's answer shows: %v %s", w.Header(), w.Body)
	}
}
