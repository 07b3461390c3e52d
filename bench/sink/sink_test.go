package sink

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestSinkCountsWhatAnOrdinaryClientPosts(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	got := map[string]string{}
	s, err := Start(t.Context(), func(delivery string, body []byte, _ time.Time) {
		mu.Lock()
		defer mu.Unlock()
		got[delivery] = string(body)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)

	arrived := make(chan error, 1)
	go func() { arrived <- s.Await(t.Context(), 3, time.Minute) }()
	for _, id := range []string{"a", "b", "c"} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.Address()+"/hook", strings.NewReader("body of "+id))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-UserHero-Delivery", id)
		response, err := http.DefaultTransport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Fatal(response.Status)
		}
	}
	if err := <-arrived; err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(got) != 3 || got["b"] != "body of b" || s.Last().IsZero() {
		t.Errorf("the sink saw %v", got)
	}
}

func TestAwaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s, err := Start(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Await(ctx, 1, time.Minute); err == nil {
		t.Error("nothing came, and yet Await was content")
	}
}
