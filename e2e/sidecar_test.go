package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// startSidecar starts a relay with passthrough before the Express application of
// express5/app.js.
func startSidecar(t *testing.T) (*relayServer, *receiver) {
	t.Helper()
	if _, err := os.Stat(filepath.Join("express5", "node_modules", "express")); err != nil {
		t.Fatalf("express5 is not installed; run `make node`: %v", err)
	}
	app := startExample(t, "express5", nil, "node", "app.js")
	r := startReceiver(t, nil)
	s := startRelay(t, relayOptions{
		app:    fmt.Sprintf("webhook crm {\n url %s\n secret %s\n}", r.url, secret),
		intake: "passthrough\n max_body 128KiB",
		site:   "reverse_proxy " + app.address,
	})
	return s, r
}

// dataOf awaits the event whose message is the given one and returns its data.
func dataOf(t *testing.T, r *receiver, event, message string) (data map[string]any) {
	t.Helper()
	r.await(t, 10*time.Second, event+" of "+message, func(all []arrival) bool {
		for _, a := range all {
			var d struct {
				Event string
				Data  map[string]any
			}
			if json.Unmarshal([]byte(a.body), &d) == nil && d.Event == event && d.Data["message"] == message {
				data = d.Data
				return true
			}
		}
		return false
	})
	return data
}

// TestSidecarOfAnExpressApplication: whatever the application answers, the client
// gets it, the application gets the body, and the webhook gets the visitor's words.
func TestSidecarOfAnExpressApplication(t *testing.T) {
	t.Parallel()
	s, r := startSidecar(t)
	for _, c := range []struct {
		answer, id, status string
		code               int
	}{
		{"success", "", "new", 200},
		{"number", "1234567890123456789", "open", 201},
		{"resource", "42", "open", 201},
		{"sent", "sent-1", "new", 200},
		{"nothing", "", "new", 204},
		{"location", "", "new", 201},
		{"page", "", "new", 200},
		{"gzip", "gzip-1", "new", 200},
		{"br", "", "new", 200},
		{"large", "large-1", "new", 200},
		{"pieces", "pieces-1", "open", 201},
	} {
		message := "answered with " + c.answer
		body := fmt.Sprintf(`{"message":%q,"metadata":{"plan":"pro"},"category":"bug"}`, message)
		response, answer := s.exchange(http.MethodPost, "/feedback/"+c.answer, body, "Content-Type", "application/json")
		if response.StatusCode != c.code || c.answer == "large" && len(answer) < 4<<20 {
			t.Errorf("%s: %s, %d bytes", c.answer, response.Status, len(answer))
		}
		appGot(t, response, []byte(body))
		data := dataOf(t, r, "feedback.created", message)
		id, _ := data["id"].(string)
		if c.id != "" && id != c.id || c.id == "" && !strings.HasPrefix(id, "fb_") || data["status"] != c.status || data["category"] != "bug" ||
			fmt.Sprint(data["metadata"]) != "map[plan:pro]" {
			t.Errorf("%s: %v", c.answer, data)
		}
	}
	for _, answer := range []string{"redirect", "refused"} {
		if response, _ := s.exchange(http.MethodPost, "/feedback/"+answer, `{"message":"none"}`, "Content-Type", "application/json"); response.StatusCode/100 == 2 {
			t.Errorf("%s: %s", answer, response.Status)
		}
	}
	if response, err := s.client.Post("http://"+s.site+"/feedback/broken", "application/json", strings.NewReader(`{"message":"its answer breaks off"}`)); err == nil {
		if answer, err := io.ReadAll(response.Body); err == nil {
			t.Errorf("a broken answer came whole: %s", answer)
		}
		_ = response.Body.Close()
	}
	if data := dataOf(t, r, "feedback.created", "its answer breaks off"); data["id"] != "broken-1" {
		t.Errorf("broken: %v", data)
	}

	for path, want := range map[string]string{"/feedback/resource/42/status": "done-by-app", "/feedback/success/1234567890123456789/status": "done"} {
		if response, answer := s.exchange(http.MethodPatch, path, `{"status":"done"}`, "Content-Type", "application/json"); response.StatusCode != 200 {
			t.Errorf("%s: %s %s", path, response.Status, answer)
		}
		message := map[bool]string{true: "answered with resource", false: "answered with number"}[strings.Contains(path, "resource")]
		if data := dataOf(t, r, "feedback.updated", message); data["status"] != want || fmt.Sprint(data["metadata"]) != "map[plan:pro]" {
			t.Errorf("%s: %v", path, data)
		}
	}
	if n := missedBySidecar(t, s); n != "" {
		t.Errorf("missed: %s", n)
	}
	s.exchange(http.MethodPatch, "/feedback/success/44/status", `{"status":"done"}`, "Content-Type", "application/json")
	if n := missedBySidecar(t, s); n != `reason="unknown_feedback"} 1` {
		t.Errorf("missed: %s", n)
	}
}

// missedBySidecar are the counters that are not zero.
func missedBySidecar(t *testing.T, s *relayServer) string {
	t.Helper()
	response, err := s.client.Get("http://" + s.admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var missed []string
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		if line, ok := strings.CutPrefix(lines.Text(), "userhero_passthrough_missed_total{"); ok && !strings.HasSuffix(line, " 0") {
			missed = append(missed, line)
		}
	}
	return strings.Join(missed, ", ")
}

// appGot checks what the application says of the body that it got.
func appGot(t *testing.T, response *http.Response, body []byte) {
	t.Helper()
	if want := fmt.Sprintf("%d %x", len(body), sha256.Sum256(body)); response.Header.Get("X-Got") != want {
		t.Errorf("the application got %s, want %s", response.Header.Get("X-Got"), want)
	}
}

// TestSidecarPassesEveryBody: JSON, forms, gzip, uploads small and large, with a
// length and in chunks.
func TestSidecarPassesEveryBody(t *testing.T) {
	t.Parallel()
	s, r := startSidecar(t)
	upload := func(message string, size int) (string, []byte) {
		var b bytes.Buffer
		w := multipart.NewWriter(&b)
		if err := w.WriteField("message", message); err != nil {
			t.Fatal(err)
		}
		file, err := w.CreateFormFile("screenshot", "screenshot.png")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.Write(bytes.Repeat([]byte{0x89}, size)); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return w.FormDataContentType(), b.Bytes()
	}
	var coded bytes.Buffer
	z := gzip.NewWriter(&coded)
	if _, err := io.WriteString(z, `{"message":"gzipped"}`); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	small, smallBody := upload("a small upload", 20<<10)
	large, largeBody := upload("a large upload", 5<<20)
	for _, c := range []struct {
		name, contentType, coding string
		body                      []byte
		message                   string // of the event; empty for none
	}{
		{"JSON", "application/json", "", []byte(`{"message":"as JSON"}`), "as JSON"},
		{"the most copied Java snippet", "application/json; utf-8", "", []byte(`{"message":"from Java"}`), "from Java"},
		{"PHP", "application/json; charset=utf8", "", []byte(`{"message":"from PHP","metadata":{"lat":52.520006599999997}}`), "from PHP"},
		{"a form", "application/x-www-form-urlencoded", "", []byte("message=100%+sure;+really&rating=4"), "100% sure; really"},
		{"gzip", "application/json", "gzip", coded.Bytes(), "gzipped"},
		{"a small upload", small, "", smallBody, "a small upload"},
		{"a large upload", large, "", largeBody, ""},
		{"a file", "application/octet-stream", "", bytes.Repeat([]byte{0}, 6<<20), ""},
	} {
		for _, chunked := range []bool{false, true} {
			request, err := http.NewRequest(http.MethodPost, "http://"+s.site+"/feedback/success", bytes.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			if chunked {
				request.ContentLength = -1
			}
			request.Header.Set("Content-Type", c.contentType)
			if c.coding != "" {
				request.Header.Set("Content-Encoding", c.coding)
			}
			response, err := s.client.Do(request)
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			_ = response.Body.Close()
			if response.StatusCode != http.StatusOK {
				t.Errorf("%s: %s", c.name, response.Status)
			}
			appGot(t, response, c.body)
			if c.message != "" {
				dataOf(t, r, "feedback.created", c.message)
			}
		}
	}
	if n := missedBySidecar(t, s); n != `reason="media_type"} 2, reason="too_large"} 2` {
		t.Errorf("missed: %s", n)
	}
}

// TestSidecarPassesStreamsAndUpgrades on the route that takes feedback.
func TestSidecarPassesStreamsAndUpgrades(t *testing.T) {
	t.Parallel()
	s, r := startSidecar(t)
	response, err := s.client.Post("http://"+s.site+"/feedback/stream", "application/json", strings.NewReader(`{"message":"answered by a stream"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	lines := bufio.NewReader(response.Body)
	if line, err := lines.ReadString('\n'); err != nil || line != "data: first\n" {
		t.Errorf("%q %v", line, err)
	}
	dataOf(t, r, "feedback.created", "answered by a stream") // while the answer goes on
	s.exchange(http.MethodGet, "/feedback/go-on", "")
	if rest, err := io.ReadAll(lines); err != nil || !strings.Contains(string(rest), "data: last") {
		t.Errorf("%q %v", rest, err)
	}

	for _, method := range []string{http.MethodGet, http.MethodPost} {
		conn, err := net.Dial("tcp", s.site)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if _, err := fmt.Fprintf(conn, "%s /feedback/socket HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", method, s.site); err != nil {
			t.Fatal(err)
		}
		answers := bufio.NewReader(conn)
		if res, err := http.ReadResponse(answers, nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("%s: %v %v", method, res, err)
		}
		if _, err := io.WriteString(conn, "hello\n"); err != nil {
			t.Fatal(err)
		}
		if line, err := answers.ReadString('\n'); err != nil || line != "hello\n" {
			t.Errorf("%s: %q %v", method, line, err)
		}
	}
}
