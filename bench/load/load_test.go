package load

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

func body(into []byte, n uint64) []byte { return strconv.AppendUint(into, n, 10) }

func TestEveryRequestIsSentOnceAndCounted(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	seen := map[string]int{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		seen[string(b)]++
		mu.Unlock()
		if strings.HasSuffix(string(b), "7") {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = io.WriteString(w, `{"id":"fb_1"}`)
	}))
	t.Cleanup(server.Close)

	result, err := Run(t.Context(), Options{
		Address: strings.TrimPrefix(server.URL, "http://"), Path: "/feedback", Body: body,
		Connections: 4, Duration: 200 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for b, n := range seen {
		if n != 1 {
			t.Errorf("body %s came %d times", b, n)
		}
		if strings.HasSuffix(b, "7") {
			refused++
		}
	}
	if int(result.Answered)+int(result.Refused) != len(seen) || int(result.Refused) != refused || len(seen) == 0 {
		t.Errorf("%d answered and %d refused of %d with %d refused", result.Answered, result.Refused, len(seen), refused)
	}
	if len(result.Latency) != len(seen) {
		t.Errorf("%d latencies", len(result.Latency))
	}
}

func TestOpenLoopKeepsItsRate(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(server.Close)
	result, err := Run(t.Context(), Options{
		Address: strings.TrimPrefix(server.URL, "http://"), Path: "/", Body: body,
		Connections: 4, Duration: 500 * time.Millisecond, Rate: 100,
	})
	if err != nil {
		t.Fatal(err)
	}
	if result.Answered < 40 || result.Answered > 51 {
		t.Errorf("%d requests in half a second at 100/s", result.Answered)
	}
}
