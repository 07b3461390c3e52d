package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/userhero/relay/relay/lean"
)

func newSendingTarget(t *testing.T, url string) *target {
	t.Helper()
	c, err := newClient(Egress{Allow: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	to, err := newTarget(WebhookConfig{
		URL: url, Secret: "s", Timeout: time.Minute, Header: http.Header{"authorization": {"canary"}, "X-Two": {"1", "2"}},
	}, c, "test")
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// TestASendingIsAContext: whether or not somebody has asked for Done, it ends as
// context.WithDeadlineCause's would.
func TestASendingIsAContext(t *testing.T) {
	t.Parallel()
	errCut := errors.New("cut")
	to := newSendingTarget(t, "http://127.0.0.1:9/")
	for _, asked := range []bool{true, false} {
		for _, derived := range []bool{true, false} {
			t.Run(fmt.Sprintf("asked %t, derived %t", asked, derived), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					begin := func() (s *sending, ctx context.Context, cut context.CancelCauseFunc) {
						parent, cut := context.WithCancelCause(t.Context())
						s = to.begin(parent, message{started: time.Now()})
						if asked {
							s.Done()
						}
						if ctx = s; derived {
							child, cancel := context.WithCancel(ctx)
							t.Cleanup(cancel)
							ctx = child
						}
						return s, ctx, cut
					}
					s, ctx, cut := begin()
					if d, ok := ctx.Deadline(); ctx.Err() != nil || !ok || d != time.Now().Add(time.Minute) {
						t.Errorf("begins with %v, deadline %v", ctx.Err(), d)
					}
					if ctx.Value(sendingKey{}) != s || ctx.Value(lean.ParcelKey{}) != &s.parcel {
						t.Error("what it takes along is not in it")
					}
					time.Sleep(time.Minute)
					synctest.Wait()
					if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
						t.Errorf("after its time: %v", ctx.Err())
					}
					if class, _ := classify(context.Cause(ctx)); class != classTimeout {
						t.Errorf("ended by its time, it says %v", context.Cause(ctx))
					}
					<-ctx.Done()
					s.end()
					cut(nil)

					s, ctx, cut = begin()
					cut(errCut)
					synctest.Wait()
					if !errors.Is(ctx.Err(), context.Canceled) || !errors.Is(context.Cause(ctx), errCut) {
						t.Errorf("cut off: %v, %v", ctx.Err(), context.Cause(ctx))
					}
					<-ctx.Done()
					s.end()
				})
			})
		}
	}
}

// TestASendingThatSomebodyMayKeepIsNotUsedAgain: only over a connection that was
// open nobody but the transport has seen it.
func TestASendingThatSomebodyMayKeepIsNotUsedAgain(t *testing.T) {
	t.Parallel()
	to := newSendingTarget(t, "http://127.0.0.1:9/")
	for name, c := range map[string]struct {
		use   func(*sending)
		again bool
	}{
		"an open connection":               {func(s *sending) { s.parcel.Reused = true }, true},
		"a new connection":                 {func(*sending) {}, false},
		"an open connection and a new one": {func(s *sending) { s.parcel.Reused = true; s.Done() }, false},
	} {
		made := 0
		to.sendings = sync.Pool{New: func() any { made++; return newSending(to) }}
		for range 10 {
			s := to.begin(t.Context(), message{started: time.Now()})
			c.use(s)
			s.end()
		}
		if again := made < 10; again != c.again {
			t.Errorf("%s: %d made for 10 attempts", name, made)
		}
	}
}

// TestAttemptsDoNotMixWhatTheySend: attempts in numbers, some of which are cut
// off, use the same sendings; each sends its own and keeps its own.
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
		if r.Header.Get("X-UserHero-Signature") != sg.signature(body) || r.Header.Get("Authorization") != "canary" || len(r.Header["X-Two"]) != 2 {
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
	to := newSendingTarget(t, receiver.URL)
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
				var cut lean.Cut
				stop := func() bool { return true }
				if n%2 == 1 {
					m.cut, stop = &cut, context.AfterFunc(ctx, cut.Make)
				}
				a, o := to.attempt(ctx, m)
				if o.canceled != (n%10 == 7) || !o.canceled && string(a.ResponseBody) != id {
					t.Errorf("attempt %s: %+v", id, a)
				}
				kept := fmt.Sprint(a.RequestHeaders)
				if !strings.Contains(kept, "{webhook-id "+id+"}") || !strings.Contains(kept, "{X-UserHero-Delivery "+id+"}") || strings.Contains(kept, "canary") {
					t.Errorf("attempt %s keeps %s", id, kept)
				}
				stop()
				end()
			}
		})
	}
	sending.Wait()
}
