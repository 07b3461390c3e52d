package relay

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

// TestAttemptsDoNotMixWhatTheySend: many attempts at once, some of which are cut
// off, each send their own header and body and keep their own.
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
	to := targetFor(t, WebhookConfig{
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
				m := message{id: id, number: n, body: []byte(`{"id":"` + id + `"}`), test: n%10 == 3, started: time.Now()}
				a, o := to.attempt(ctx, m)
				if o.canceled != (n%10 == 7) || !o.canceled && string(a.ResponseBody) != id {
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
