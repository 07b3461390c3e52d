package caddymodule

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestTricklingBodyEndsAtTheCutoff: the client gets its answer, and its connection is closed though more of the body is to come.
func TestTricklingBodyEndsAtTheCutoff(t *testing.T) {
	t.Parallel()
	e := &engine{metrics: newMetrics()}
	e.cutoff, e.cutOff = context.WithCancel(t.Context())
	handler := &Handler{app: &App{engine: e, log: slog.New(slog.DiscardHandler)}}
	reading := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer e.boundBody(w, r)()
		r.Body = readingBody{r.Body, sync.OnceFunc(func() { close(reading) })}
		if _, err := readBody(w, r, 1024, time.Hour); err != nil {
			handler.refuse(w, r, err)
		}
	}))
	t.Cleanup(server.Close)
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\naaa"); err != nil {
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

func TestTricklingBodyEndsByDeadline(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := readBody(w, r, 1024, 50*time.Millisecond)
		if err != nil {
			problem, _ := explain(err)
			w.Header().Set("Connection", "close")
			writeProblem(w, problem)
			return
		}
		b.release()
	}))
	t.Cleanup(server.Close)
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	answers := bufio.NewReader(conn)
	send := func(text string) int {
		t.Helper()
		if _, err := fmt.Fprint(conn, text); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res.StatusCode
	}
	const head = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
	for range 2 { // the first deadline is over when the second request comes
		if status := send(head + strings.Repeat("a", 10)); status != http.StatusOK {
			t.Fatalf("a whole body: %d", status)
		}
	}
	if status := send(head + "aaa"); status != http.StatusRequestTimeout {
		t.Errorf("a body that stops: %d, want 408", status)
	}
}
