package deliver

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestAttemptsDoNotMixWhatTheySend: many attempts run at once, and some are cancelled.
// Each sends and records its own header and body.
func TestAttemptsDoNotMixWhatTheySend(t *testing.T) {
	t.Parallel()
	sg, err := newSigner("s")
	if err != nil {
		t.Fatal(err)
	}
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		id := r.Header.Get("webhook-id")
		if err != nil || string(body) != `{"id":"`+id+`"}` || r.Header.Get("X-UserHero-Delivery") != id {
			t.Errorf("delivery %s has the body %s, %v", id, body, err)
		}
		if r.Header.Get("X-UserHero-Signature") != string(sg.AppendPlain(nil, body)) || r.Header.Get("Authorization") != "canary" || len(r.Header["X-Two"]) != 2 {
			t.Errorf("delivery %s came with %v", id, r.Header)
		}
		if has := r.Header.Get("X-UserHero-Test") != ""; has != strings.HasPrefix(id, "test") {
			t.Errorf("delivery %s is a test: %t", id, has)
		}
		if strings.HasPrefix(id, "cut") {
			<-r.Context().Done()
			return
		}
		_, _ = io.WriteString(w, id)
	}))
	defer receiver.Close()
	to := targetFor(t, Config{
		URL: receiver.URL, Secret: "s", Timeout: time.Minute, Header: http.Header{"authorization": {"canary"}, "X-Two": {"1", "2"}},
	}, Egress{Allow: []string{"127.0.0.1"}})
	var sending sync.WaitGroup
	for worker := range 8 {
		sending.Go(func() {
			for n := range 100 {
				id, ctx, end := fmt.Sprintf("dlv-%d-%d", worker, n), t.Context(), context.CancelFunc(func() {})
				switch n % 10 {
				case 3:
					id = "test-" + id
				case 7:
					id = "cut-" + id
					ctx, end = context.WithTimeout(ctx, 5*time.Millisecond)
				}
				m := Message{ID: id, Number: n, Body: []byte(`{"id":"` + id + `"}`), Test: n%10 == 3, Started: time.Now()}
				a, o := to.Attempt(ctx, m)
				if o.Canceled != (n%10 == 7) || !o.Canceled && string(a.ResponseBody) != id {
					t.Errorf("attempt %s: %+v", id, a)
				}
				kept := fmt.Sprint(a.RequestHeaders)
				if !strings.Contains(kept, "{webhook-id "+id+"}") || !strings.Contains(kept, "{X-UserHero-Delivery "+id+"}") || strings.Contains(kept, "canary") {
					t.Errorf("attempt %s keeps %s", id, kept)
				}
				end()
			}
		})
	}
	sending.Wait()
}

// TestValuesOfConfiguredHeadersAreNotKept: the values are sent, but the attempt log has
// only the names, because values may be passwords.
func TestValuesOfConfiguredHeadersAreNotKept(t *testing.T) {
	t.Parallel()
	sent := make(chan string, 1)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { sent <- r.Header.Get("Authorization") }))
	defer receiver.Close()
	c, err := NewClient(Egress{Allow: []string{"127.0.0.1"}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	to, err := c.Receiver(Config{URL: receiver.URL, Timeout: 5 * time.Second, Header: http.Header{"Authorization": {"canary"}}})
	if err != nil {
		t.Fatal(err)
	}
	a, o := to.Attempt(t.Context(), Message{Body: []byte(`{}`), Started: time.Now()})
	if got := <-sent; !o.OK || got != "canary" {
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
