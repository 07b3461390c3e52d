package caddymodule

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/userhero/relay/intake"
)

// TestTricklingBodyEndsAtTheCutoff: the client gets an answer at the cutoff, and its
// connection is closed although the body is incomplete.
func TestTricklingBodyEndsAtTheCutoff(t *testing.T) {
	t.Parallel()
	e := newEngine(nil, new(BadgerQueue), QueueOptions{}, slog.New(slog.DiscardHandler), nil)
	handler := &Handler{app: &App{engine: e, intakeLog: intake.NewLog(slog.New(slog.DiscardHandler))}}
	if err := handler.provisionIntake(); err != nil {
		t.Fatal(err)
	}
	reading := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = readingBody{r.Body, sync.OnceFunc(func() { close(reading) })}
		if err := handler.ServeHTTP(w, r, nil); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\naaa"); err != nil {
		t.Fatal(err)
	}
	<-reading
	e.cutOff()
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 503 ") || !strings.Contains(string(answer), "Retry-After: 1\r\n") {
		t.Errorf("%v, answered %s", err, answer)
	}
}

// readingBody reports each read.
type readingBody struct {
	io.ReadCloser
	read func()
}

func (b readingBody) Read(p []byte) (int, error) {
	b.read()
	return b.ReadCloser.Read(p)
}
