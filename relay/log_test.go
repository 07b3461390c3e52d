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
)

// lockedBuffer is a log that many goroutines write.
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

// TestLogsHoldNoSecretAndNoPayload: whatever goes wrong with a delivery, no line
// of the log, down to the debug level, has a secret, a header's value, the query
// of a URL, what people wrote or what a receiver answered; and no line is forged.
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
			_, _ = io.Copy(io.Discard, r.Body) // else the server does not see the client go
			<-r.Context().Done()
		}
		_, _ = w.Write([]byte(canary + "-answer\n{\"level\":\"error\",\"msg\":\"forged\"}"))
	}))
	defer receiver.Close()
	noHTTP := newRawReceiver(t, say(canary+"-greeting \x1b[31m\nlevel=ERROR msg=forged\r\n\r\n"))
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
		"slow": receiver.URL + "/slow", "nohttp": noHTTP.url, "refused": "http://" + closed.Addr().String() + "/",
		"inside": "http://10.0.0.1/", "notls": strings.Replace(receiver.URL, "http:", "https:", 1) + "/",
	}
	c := Config{Egress: Egress{Allow: []string{"127.0.0.1"}}}
	for name, url := range urls {
		c.Webhooks = append(c.Webhooks, WebhookConfig{
			Name: name, URL: url + "?token=" + canary + "-query", Secret: canary + "-secret", PreviousSecret: canary + "-previous",
			Header: http.Header{"Authorization": {canary + "-header"}}, Retry: []time.Duration{}, Timeout: time.Second,
		})
	}
	if _, err := r.Attach(c); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Accept(t.Context(), Acceptance{
		Type: event.Created, Feedback: queue.FeedbackID{ID: "fb_1"}, Body: []byte(`{"event":"feedback.created","data":{"id":"fb_1","message":"` + canary + `-message"}}`),
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
		// What is no HTTP is quoted by the error, so that people see what they
		// reached; it is text of the receiver's first line, and bounded.
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

// TestValuesOfConfiguredHeadersAreNotKept: they are sent, and the attempt log has
// their names alone, for they may be passwords.
func TestValuesOfConfiguredHeadersAreNotKept(t *testing.T) {
	t.Parallel()
	sent := make(chan string, 1)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { sent <- r.Header.Get("Authorization") }))
	defer receiver.Close()
	c, err := newClient(Egress{Allow: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	to, err := newTarget(WebhookConfig{URL: receiver.URL, Timeout: 5 * time.Second, Header: http.Header{"Authorization": {"canary"}}}, c, "test")
	if err != nil {
		t.Fatal(err)
	}
	a, o := to.attempt(t.Context(), message{body: []byte(`{}`), started: time.Now()})
	if got := <-sent; !o.ok || got != "canary" {
		t.Fatalf("sent %q: %+v", got, o)
	}
	named := false
	for _, h := range a.RequestHeaders {
		named = named || h.Name == "Authorization"
		if strings.Contains(h.Value, "canary") {
			t.Errorf("kept: %+v", h)
		}
	}
	if !named {
		t.Errorf("the log does not say that the field was sent: %+v", a.RequestHeaders)
	}
}
