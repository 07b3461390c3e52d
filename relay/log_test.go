package relay

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
	"github.com/userhero/relay/relay/deliver"
)

// lockedBuffer is a log buffer that goroutines can write at the same time.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// TestLogsHoldNoSecretAndNoPayload: whatever goes wrong with a delivery, no log line at
// any level has a secret, a header's value, a URL's query, an event's content or a
// receiver's response. No input can forge a line.
func TestLogsHoldNoSecretAndNoPayload(t *testing.T) {
	t.Parallel()
	const canary = "canary"
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Answer", canary+"-answer-header")
		switch r.URL.Path {
		case "/500":
			w.WriteHeader(http.StatusInternalServerError)
		case "/410":
			w.WriteHeader(http.StatusGone)
		case "/302":
			w.Header().Set("Location", "/"+canary+"-location")
			w.WriteHeader(http.StatusFound)
		case "/slow":
			_, _ = io.Copy(io.Discard, r.Body) // otherwise the server does not notice that the client disconnected
			<-r.Context().Done()
		}
		_, _ = w.Write([]byte(canary + "-answer\n{\"level\":\"error\",\"msg\":\"forged\"}"))
	}))
	defer receiver.Close()
	noHTTP, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = noHTTP.Close() }()
	go func() {
		for {
			c, err := noHTTP.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				_, _ = io.WriteString(c, canary+"-greeting \x1b[31m\nlevel=ERROR msg=forged\r\n\r\n")
				_, _ = io.Copy(io.Discard, c) // until the relay hangs up
			}()
		}
	}()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()

	log := new(lockedBuffer)
	r := New(Options{
		Queue:  memqueue.New(memqueue.Options{}),
		Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	urls := map[string]string{
		"ok": receiver.URL + "/200", "broken": receiver.URL + "/500", "gone": receiver.URL + "/410", "moved": receiver.URL + "/302",
		"slow": receiver.URL + "/slow", "nohttp": "http://" + noHTTP.Addr().String() + "/", "refused": "http://" + closed.Addr().String() + "/",
		"inside": "http://10.0.0.1/", "notls": strings.Replace(receiver.URL, "http:", "https:", 1) + "/",
	}
	c := Config{Egress: deliver.Egress{Allow: []string{"127.0.0.1"}}}
	for name, url := range urls {
		c.Webhooks = append(c.Webhooks, WebhookConfig{
			Name: name, URL: url + "?token=" + canary + "-query", Secret: canary + "-secret", PreviousSecret: canary + "-previous",
			Header: http.Header{"Authorization": {canary + "-header"}}, Retry: []time.Duration{}, Timeout: time.Second,
		})
	}
	if _, err := r.Attach(c); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Accept(t.Context(), queue.Entry{
		Type: string(event.Created), Feedback: queue.FeedbackID{ID: "fb_1"}, Body: []byte(`{"event":"feedback.created","data":{"id":"fb_1","message":"` + canary + `-message"}}`),
	}); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		ended := 0
		for _, w := range r.Webhooks() {
			if w.Counts.Delivered+w.Counts.Failed > 0 || w.State != Active {
				ended++
			}
		}
		if ended == len(urls) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d of %d deliveries have ended", ended, len(urls))
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := r.Stop(ctx); err != nil {
		t.Error(err)
	}
	lines := 0
	for line := range strings.Lines(log.String()) {
		lines++
		// If the response is not HTTP, the error quotes its first line, so that people
		// see what they reached. The quote is bounded.
		if strings.Contains(strings.ReplaceAll(line, canary+"-greeting", ""), canary) {
			t.Errorf("the log holds what it must not: %s", line)
		}
		if !strings.HasPrefix(line, "time=") || strings.ContainsAny(line, "\x1b\r") {
			t.Errorf("a forged line: %q", line)
		}
	}
	if lines < 10 {
		t.Errorf("the log has %d lines: the test shows nothing\n%s", lines, log)
	}
}
