package intake

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestGzipBodiesAreReadAndPassAsTheyAre(t *testing.T) {
	s := newSidecar(t, Config{MaxBody: 1 << 10})
	s.will(200, `{}`, jsonBody...)
	const message = `{"message":"m"}`
	bomb := gzipped(t, `{"message":"`+strings.Repeat("a", 20<<10)+`"}`)
	if len(bomb) > 1000 {
		t.Fatalf("the bomb has %d bytes", len(bomb))
	}
	for _, c := range []struct{ name, coding, body, want string }{
		{"gzip", "gzip", gzipped(t, message), ""},
		{"its former name", "X-GZIP", gzipped(t, message), ""},
		{"identity", "identity", message, ""},
		{"a bomb", "gzip", bomb, "too_large 1"},
		{"broken", "gzip", gzipped(t, message)[:20], "malformed 1, too_large 1"},
		{"none", "gzip", message, "malformed 2, too_large 1"},
		{"br", "br", message, "malformed 2, media_type 1, too_large 1"},
		{"twice", "gzip, gzip", gzipped(t, gzipped(t, message)), "malformed 2, media_type 2, too_large 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := s.do(http.MethodPost, "/", c.body, append([]string{"Content-Encoding", c.coding}, jsonBody...)...)
			if a.Status != 200 || string(s.got) != c.body {
				t.Errorf("%d; the app got %d of %d bytes", a.Status, len(s.got), len(c.body))
			}
			if m := s.missed(); m != c.want {
				t.Errorf("missed: %s, want %s", m, c.want)
			}
		})
	}
	if events := s.events(); len(events) != 3 {
		t.Errorf("events: %q", events)
	}
}

// TestEncodedAnswersStayEncoded: the client that takes gzip gets the app's gzip; no
// other coding is asked for.
func TestEncodedAnswersStayEncoded(t *testing.T) {
	s := newSidecar(t, Config{})
	asked := make(chan string, 1)
	s.answer = func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Header.Get("Accept-Encoding")
		w.Header().Set("Content-Type", "application/json")
		if r.Header.Get("Accept-Encoding") == "gzip" {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, gzipped(t, `{"id":"a"}`))
			return
		}
		_, _ = io.WriteString(w, `{"id":"a"}`)
	}
	for accepted, want := range map[string]string{"gzip, br;q=1, zstd": "gzip", "br": "gzip", "identity": "gzip", "gzip;q=0": "gzip"} {
		a := s.do(http.MethodPost, "/", `{"message":"m"}`, append([]string{"Accept-Encoding", accepted}, jsonBody...)...)
		// What the client does not take, Caddy's transport asks for and takes off.
		if got := <-asked; got != want {
			t.Errorf("%s: the app was asked for %q", accepted, got)
		}
		body := `{"id":"a"}`
		if strings.HasPrefix(accepted, "gzip,") {
			body = gzipped(t, body)
		}
		if a.Body != body {
			t.Errorf("%s: the client got %q", accepted, a.Body)
		}
		if !strings.Contains(s.last(), `"id":"a"`) {
			t.Errorf("%s: the event is %s", accepted, s.last())
		}
	}
}

// TestBodiesReachTheAppWhole: whatever is read of a body, the application gets all
// of it.
func TestBodiesReachTheAppWhole(t *testing.T) {
	s := newSidecar(t, Config{MaxBody: 1 << 10})
	s.will(200, `{}`, jsonBody...)
	large := `{"message":"` + strings.Repeat("a", 3<<20) + `"}`
	for name, client := range map[string]*http.Client{"HTTP/1.1": client, "HTTP/2": client2} {
		for _, body := range []string{`{"message":"m"}`, large[:1024], large[:1025], large} {
			for _, length := range []int64{int64(len(body)), -1} {
				req, err := http.NewRequest(http.MethodPost, "http://"+s.address+"/", io.NopCloser(strings.NewReader(body)))
				if err != nil {
					t.Fatal(err)
				}
				req.ContentLength = length
				req.Header.Set("Content-Type", "application/json")
				res, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				_ = res.Body.Close()
				if res.StatusCode != 200 || string(s.got) != body {
					t.Errorf("%s: %d bytes, declared as %d: %d; the app got %d bytes", name, len(body), length, res.StatusCode, len(s.got))
				}
			}
		}
	}
	if m := s.missed(); m != "malformed 4, too_large 8" {
		t.Errorf("missed: %s", m)
	}
}

func TestBodyThatWaitsForLeaveIsAskedFor(t *testing.T) {
	s := newSidecar(t, Config{})
	s.will(201, `{"id":"a"}`, jsonBody...)
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	const body = `{"message":"m"}`
	if _, err := fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", len(body)); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	// The application is not asked again: there would be a second "100 Continue".
	if line, err := r.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("%q %v", line, err)
	}
	if _, err := r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, body); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(r, nil)
	if err != nil || res.StatusCode != 201 || string(s.got) != body {
		t.Errorf("%v %v; the app got %q", res, err, s.got)
	}
}

// trickle is a body that comes in pieces, each after a pause.
type trickle struct {
	pieces []string
	pause  time.Duration
}

func (b *trickle) Read(p []byte) (int, error) {
	if len(b.pieces) == 0 {
		return 0, io.EOF
	}
	time.Sleep(b.pause)
	n := copy(p, b.pieces[0])
	b.pieces = b.pieces[1:]
	return n, nil
}

// TestBodyReadAheadMayNotTrickleForEver: what is read ahead must come in time; what
// is too large to be read, or of no readable kind, is the application's and may
// take longer.
func TestBodyReadAheadMayNotTrickleForEver(t *testing.T) {
	t.Parallel()
	const timeout = 300 * time.Millisecond
	h := newSite(t).handler(Config{MaxBody: 1024})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started := time.Now()
		s, err := h.readSubmission(w, r, timeout)
		if err != nil {
			if took := time.Since(started); took < timeout {
				t.Errorf("refused after %v", took)
			}
			problem, _ := problemOf(err)
			WriteProblem(w, problem)
			return
		}
		defer s.release()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("reading the rest: %v", err)
		}
		time.Sleep(timeout + timeout/2 - time.Since(started)) // the application takes its time
		if err := r.Context().Err(); err != nil {
			t.Errorf("the request has ended: %v", err)
		}
		_, _ = w.Write(body)
	}))
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
	large := strings.Repeat("a", 1100)
	for name, client := range map[string]*http.Client{"HTTP/1.1": client, "HTTP/2": client2} {
		for _, c := range []struct {
			name        string
			pieces      []string
			contentType string
			want        int
		}{
			{"whole", []string{`{"message":"m"}`}, "application/json", 200},
			{"trickling", strings.Split(strings.Repeat("a", 100), ""), "application/json", 408},
			{"large and then trickling", append([]string{large}, "b", "c", "d", "e", "f", "g", "h"), "application/json", 200},
			{"of no readable kind", strings.Split("abcdefghij", ""), "application/octet-stream", 200},
		} {
			t.Run(name+" "+c.name, func(t *testing.T) {
				t.Parallel()
				res, err := client.Post(server.URL, c.contentType, &trickle{c.pieces, timeout / 5})
				var opError *net.OpError
				if errors.As(err, &opError) && c.want == http.StatusRequestTimeout {
					return // still writing when the connection was closed
				}
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = res.Body.Close() }()
				body, err := io.ReadAll(res.Body)
				if err != nil || res.StatusCode != c.want || c.want == 200 && string(body) != strings.Join(c.pieces, "") {
					t.Errorf("%d %q %v", res.StatusCode, body, err)
				}
			})
		}
	}
}

// TestBrokenAnswerMakesItsEvent: the application has accepted the submission and
// ends in the middle of its answer. The client sees a broken answer; the words are
// kept.
func TestBrokenAnswerMakesItsEvent(t *testing.T) {
	s := newSidecar(t, Config{})
	for contentType, want := range map[string]string{
		"application/json": `created {"id":"application.json","message":"m","status":"open"}`,
		"text/html":        `created {"id":"text.html","message":"m","status":"open"}`,
		"text/css":         `created {"id":"fb_…","message":"m","status":"new"}`,
	} {
		s.answer = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, `{"id":"`+strings.ReplaceAll(contentType, "/", ".")+`","status":"open","mess`)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		before := len(s.events())
		if a, err := request(http.MethodPost, "http://"+s.address+"/", `{"message":"m"}`, jsonBody...); err == nil {
			t.Errorf("%s: the client got %d %q", contentType, a.Status, a.Body)
		}
		eventually(t, func() bool { return len(s.events()) > before })
		if s.last() != want {
			t.Errorf("%s: the event is %s, want %s", contentType, s.last(), want)
		}
	}
}

// TestFilesOfAFormAreTheApps: the text fields make the event.
func TestFilesOfAFormAreTheApps(t *testing.T) {
	s := newSidecar(t, Config{})
	s.will(201, `{"id":"a","screenshotUrl":"https://app.example.com/1.png"}`, jsonBody...)
	const body = "--b\r\nContent-Disposition: form-data; name=\"message\"\r\n\r\nsee there\r\n" +
		"--b\r\nContent-Disposition: form-data; name=\"screenshot\"; filename=\"1.png\"\r\nContent-Type: image/png\r\n\r\n\x89PNG\r\n" +
		"--b\r\nContent-Disposition: form-data; name=\"metadata.plan\"\r\n\r\npro\r\n--b--\r\n"
	s.do(http.MethodPost, "/", body, "Content-Type", "multipart/form-data; boundary=b")
	if want := `created {"id":"a","message":"see there","metadata":{"plan":"pro"},"screenshotUrl":"https://app.example.com/1.png","status":"new"}`; s.last() != want {
		t.Errorf("the event is %s, want %s", s.last(), want)
	}
	if string(s.got) != body {
		t.Errorf("the app got %q", s.got)
	}
}
