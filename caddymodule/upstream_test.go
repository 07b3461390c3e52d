package caddymodule

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"
)

// ordinaryApp is an upstream that does what applications usually do.
func ordinaryApp(t *testing.T) *httptest.Server {
	t.Helper()
	large := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	mux := http.NewServeMux()
	mux.HandleFunc("/feedback/large", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"pad":"`+large+`"}`)
	})
	mux.HandleFunc("/feedback/file", func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "f.txt", time.Unix(1e9, 0), strings.NewReader(large))
	})
	mux.HandleFunc("/feedback/trailers", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "X-Sum")
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"id":"t"}`)
		w.(http.Flusher).Flush()
		w.Header().Set("X-Sum", "42")
	})
	mux.HandleFunc("/feedback/echo", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Add("Set-Cookie", "a=1")
		w.Header().Add("Set-Cookie", "b=2")
		w.Header().Set("X-Body", fmt.Sprint(len(body)))
		w.WriteHeader(http.StatusCreated)
		_, _ = fmt.Fprintf(w, "%s %s %s", r.Method, r.Header.Get("Content-Type"), body)
	})
	mux.HandleFunc("/feedback/early", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusOK)
		_, _ = io.WriteString(w, "after the hints")
	})
	mux.HandleFunc("/feedback/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusSeeOther) })
	mux.HandleFunc("/feedback/wrong", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusTeapot) })
	mux.HandleFunc("/feedback/empty", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	app := httptest.NewServer(mux)
	t.Cleanup(app.Close)
	return app
}

// seen holds the parts of an answer that a client sees.
type seen struct {
	Status          int
	Header, Trailer string
	Body            string
	Hints           string
}

func see(t *testing.T, c *http.Client, method, url, body string, header ...string) seen {
	t.Helper()
	var hints []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			if code != http.StatusContinue { // a proxy may add this one
				hints = append(hints, fmt.Sprint(code, h.Get("Link")))
			}
			return nil
		},
	})
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	res.Header.Del("Date")
	// The server may choose whether an answer has a Content-Length.
	if method != http.MethodHead {
		res.Header.Del("Content-Length")
	}
	what := seen{res.StatusCode, fmt.Sprint(res.Header), fmt.Sprint(res.Trailer), string(text), strings.Join(hints, " ")}
	if _, boundary, ok := strings.Cut(res.Header.Get("Content-Type"), "boundary="); ok { // random in each answer
		what.Header = strings.ReplaceAll(what.Header, boundary, "xyz")
		what.Body = strings.ReplaceAll(what.Body, boundary, "xyz")
	}
	return what
}

// TestOrdinaryApplicationsBehaveTheSameBehindIt sends the same requests to an
// application with and without the directive before it.
func TestOrdinaryApplicationsBehaveTheSameBehindIt(t *testing.T) {
	app := ordinaryApp(t)
	upstream := strings.TrimPrefix(app.URL, "http://")
	s, h := newSite(t), newHook(t)
	s.load(webhookTo(h), `
		handle_path /with/* {
			userhero /feedback* {
				passthrough
			}
			reverse_proxy `+upstream+`
		}
		handle_path /without/* {
			reverse_proxy `+upstream+`
		}`)
	const feedback = `{"message":"hello"}`
	big := `{"message":"` + strings.Repeat("x", 100<<10) + `"}`
	for version, c := range map[string]*http.Client{"HTTP 1": client, "HTTP 2": client2} {
		for _, q := range []struct {
			method, path, body string
			header             []string
		}{
			{"GET", "large", "", nil},
			{"POST", "large", feedback, jsonBody},
			{"HEAD", "file", "", nil},
			{"GET", "file", "", []string{"Range", "bytes=10-19"}},
			{"GET", "file", "", []string{"Range", "bytes=5-6,100-101"}},
			{"GET", "file", "", []string{"If-Modified-Since", time.Now().UTC().Format(http.TimeFormat)}},
			{"POST", "trailers", feedback, jsonBody},
			{"GET", "trailers", "", nil},
			{"POST", "echo", feedback, jsonBody},
			{"POST", "echo", "not json", jsonBody},
			{"POST", "echo", big, jsonBody},
			{"POST", "echo", "message=hi&rating=3", []string{"Content-Type", "application/x-www-form-urlencoded"}},
			{"PUT", "echo", "\x00\x01 bytes", []string{"Content-Type", "application/octet-stream"}},
			{"PATCH", "echo", `{"status":"done"}`, jsonBody},
			{"POST", "echo", feedback, append([]string{"Expect", "100-continue"}, jsonBody...)},
			{"DELETE", "echo", "", nil},
			{"POST", "early", feedback, jsonBody},
			{"POST", "moved", feedback, jsonBody},
			{"POST", "wrong", feedback, jsonBody},
			{"POST", "empty", feedback, jsonBody},
			{"OPTIONS", "empty", "", nil},
		} {
			t.Run(version+" "+q.method+" "+q.path, func(t *testing.T) {
				with := see(t, c, q.method, "http://"+s.address+"/with/feedback/"+q.path, q.body, q.header...)
				without := see(t, c, q.method, "http://"+s.address+"/without/feedback/"+q.path, q.body, q.header...)
				if with != without {
					t.Errorf("with:    %.600s\nwithout: %.600s", fmt.Sprint(with), fmt.Sprint(without))
				}
			})
		}
	}
}

// TestEventStreamsFlowBehindIt: a client gets each part of an answer when the
// application sends it, in answer to a GET and, after the event is stored, to a POST.
func TestEventStreamsFlowBehindIt(t *testing.T) {
	next := make(chan struct{})
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			_, _ = fmt.Fprintf(w, "data: %d\n\n", i)
			w.(http.Flusher).Flush()
			select {
			case <-next:
			case <-r.Context().Done():
				return
			}
		}
	}))
	defer app.Close()
	s, h := newSite(t), newHook(t)
	s.load(webhookTo(h), "userhero /feedback* {\npassthrough\n}\nreverse_proxy "+strings.TrimPrefix(app.URL, "http://"))
	for _, method := range []string{"GET", "POST"} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, method, "http://"+s.address+"/feedback", strings.NewReader(`{"message":"m"}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(res.Body)
		for i := range 3 {
			line, err := lines.ReadString('\n')
			if err != nil || line != fmt.Sprintf("data: %d\n", i) {
				t.Fatalf("%s: part %d is %q, %v", method, i, line, err)
			}
			if _, err := lines.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			next <- struct{}{} // now the application sends the next part
		}
		_ = res.Body.Close()
	}
	h.await(t, 1)
}

// TestContinueIsSentBeforeTheBody: a client that waits for 100 Continue gets it.
func TestContinueIsSentBeforeTheBody(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusCreated)
	}))
	defer app.Close()
	s, h := newSite(t), newHook(t)
	s.load(webhookTo(h), "userhero /feedback* {\npassthrough\n}\nreverse_proxy "+strings.TrimPrefix(app.URL, "http://"))
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	const body = `{"message":"m"}`
	if _, err := fmt.Fprintf(conn, "POST /feedback HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", len(body)); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	if line, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 100 ") {
		t.Fatalf("%q, %v", line, err)
	}
	if _, err := r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, body); err != nil {
		t.Fatal(err)
	}
	for {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode == http.StatusContinue {
			continue // sent by the application and passed on by the proxy
		}
		if res.StatusCode != http.StatusCreated {
			t.Fatalf("status %d", res.StatusCode)
		}
		break
	}
	h.await(t, 1)
}
