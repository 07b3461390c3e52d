package intake

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestTricklingBodyEndsByDeadline(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := (*Memory)(nil).readBody(w, r, 1024, 50*time.Millisecond)
		if err != nil {
			problem, _ := problemOf(err)
			w.Header().Set("Connection", "close")
			WriteProblem(w, problem)
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
