package relay

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
	"github.com/userhero/relay/relay/deliver"
	"github.com/userhero/relay/relay/signature"
)

// request is what a receiver got.
type request struct {
	at     time.Time
	host   string
	header http.Header
	body   string
}

// receivers replaces the network, so that tests can run on fake time.
type receivers struct {
	mu   sync.Mutex
	seen []request
	// answer returns a status, or 0 to hang until the attempt ends.
	answer func(r request) (status int, header http.Header)
}

func (rs *receivers) RoundTrip(r *http.Request) (*http.Response, error) {
	if trace := httptrace.ContextClientTrace(r.Context()); trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{})
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	seen := request{at: time.Now(), host: r.URL.Host, header: r.Header, body: string(body)}
	rs.mu.Lock()
	rs.seen = append(rs.seen, seen)
	answer := rs.answer
	rs.mu.Unlock()
	status, header := answer(seen)
	if status == 0 {
		<-r.Context().Done()
		return nil, context.Cause(r.Context())
	}
	if header == nil {
		header = http.Header{}
	}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader("said"))}, nil
}

func (rs *receivers) all() []request {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return append([]request(nil), rs.seen...)
}

func always(status int) func(request) (int, http.Header) {
	return func(request) (int, http.Header) { return status, nil }
}

// startOn starts a relay on a queue, with fake receivers. Call it in a synctest bubble,
// and call stop before the bubble ends.
func startOn(t *testing.T, q queue.Queue, rs *receivers, c Config) (r *Relay, stop func()) {
	t.Helper()
	client, err := deliver.NewClient(c.Egress, deliver.Options{Transport: rs})
	if err != nil {
		t.Fatal(err)
	}
	r = New(Options{Queue: q, Version: "1.2.3", client: client})
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Attach(c); err != nil {
		t.Fatal(err)
	}
	return r, func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = r.Stop(ctx)
	}
}

func accept(t *testing.T, r *Relay, id string) queue.Event {
	t.Helper()
	receipt, err := r.Accept(t.Context(), queue.Entry{
		Type: string(event.Created), Feedback: queue.FeedbackID{ID: id}, Body: fmt.Appendf(nil, `{"event":"feedback.created","data":{"id":%q}}`, id),
	})
	if err != nil {
		t.Fatal(err)
	}
	return receipt.Event
}

func TestLadderMakesSixRequestsAndTheWebhookRecovers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		status := http.StatusInternalServerError
		rs := &receivers{answer: func(request) (int, http.Header) { return status, nil }}
		r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, Config{Webhooks: []WebhookConfig{{Name: "w", URL: "https://r.example/x", Secret: "s"}}})
		defer stop()
		e := accept(t, r, "fb_1")
		time.Sleep(60 * time.Hour)
		seen := rs.all()
		if len(seen) != 6 {
			t.Fatalf("%d requests, want one and five retries", len(seen))
		}
		for i, s := range seen {
			if i > 0 {
				rung, gap := DefaultLadder()[i-1], s.at.Sub(seen[i-1].at)
				if gap < rung || gap > rung+min(rung/10, 30*time.Second) {
					t.Errorf("retry %d came after %v, its rung is %v", i, gap, rung)
				}
			}
			if s.body != string(e.Body) || s.header["X-UserHero-Delivery"][0] != seen[0].header["X-UserHero-Delivery"][0] {
				t.Errorf("request %d differs: %s of %s", i+1, s.body, s.header["X-UserHero-Delivery"])
			}
			if got := s.header["X-UserHero-Attempt"][0]; got != fmt.Sprint(i+1) {
				t.Errorf("request %d says attempt %s", i+1, got)
			}
		}
		w, _ := r.Webhook("w")
		if w.State != Failing || w.FailingSince.IsZero() || w.Counts.Failed != 1 {
			t.Fatalf("after the last rung the webhook is %+v", w)
		}
		status = http.StatusOK
		accept(t, r, "fb_2")
		time.Sleep(10 * time.Minute)
		if w, _ := r.Webhook("w"); w.State != Active || w.Counts.Delivered != 1 || !w.FailingSince.IsZero() {
			t.Errorf("after a 2xx the webhook is %+v", w)
		}
		what := activities(t, r)
		if !strings.Contains(what, "webhook failing") || !strings.Contains(what, "webhook recovered") {
			t.Errorf("the activity log has %s", what)
		}
	})
}

func activities(t *testing.T, r *Relay) string {
	t.Helper()
	page, err := r.Queue().Activities(t.Context(), 100, "")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for _, a := range page.Items {
		b.Write(a.Data)
	}
	return b.String()
}

func TestRequestsCarryTheDocumentedHeaders(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rs := &receivers{answer: always(204)}
		r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, Config{Webhooks: []WebhookConfig{
			{Name: "signed", URL: "https://signed.example/", Secret: "s", Header: http.Header{"authorization": {"Bearer canary"}}},
			{Name: "plain", URL: "https://plain.example/"},
		}})
		defer stop()
		request := trace.ContextWithSpanContext(t.Context(), spanContext(queue.TraceContext{TraceID: [16]byte{1}, SpanID: [8]byte{2}, Flags: 1, State: "k=v"}))
		receipt, err := r.Accept(request, queue.Entry{Type: string(event.Updated), Feedback: queue.FeedbackID{ID: "fb_1"}, Body: []byte(`{}`)})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for _, s := range rs.all() {
			want := map[string]string{
				"Content-Type": "application/json", "User-Agent": "UserHero-Relay/1.2.3", "X-UserHero-Event": "feedback.updated",
				"X-UserHero-Attempt": "1", "webhook-timestamp": fmt.Sprint(s.at.Unix()), "tracestate": "k=v",
			}
			if s.host == "signed.example" {
				id := s.header["webhook-id"][0]
				sg, _ := signature.NewSigner("s")
				want["X-UserHero-Signature"] = string(sg.AppendPlain(nil, []byte(`{}`)))
				want["webhook-signature"] = string(sg.AppendStandard(nil, id, s.at.Unix(), []byte(`{}`)))
				want["authorization"] = "Bearer canary" // spelled as configured
				want["X-UserHero-Delivery"] = id
				attempts, err := r.Queue().Attempts(t.Context(), queue.DeliveryID{Event: receipt.Event.ID, Webhook: 1})
				if err != nil || strings.Contains(fmt.Sprint(attempts), "canary") {
					t.Errorf("the attempt log has a configured header's value, or %v", err)
				}
			} else if s.header["X-UserHero-Signature"] != nil || s.header["webhook-signature"] != nil {
				t.Error("a webhook without a secret gets a signature")
			}
			for name, value := range want {
				if got := s.header[name]; len(got) != 1 || got[0] != value {
					t.Errorf("%s: %s is %q, want %q", s.host, name, got, value)
				}
			}
			if tp := s.header["traceparent"][0]; !strings.HasPrefix(tp, "00-01000000000000000000000000000000-") || !strings.HasSuffix(tp, "-01") ||
				strings.Contains(tp, "-0200000000000000-") {
				t.Errorf("traceparent %q does not continue the event's trace with a span of its own", tp)
			}
		}
	})
}

func TestFailingWebhookIsProbedWhileOthersUseNoRung(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		status, underWay, most := 500, 0, 0
		var mu sync.Mutex
		rs := &receivers{}
		rs.answer = func(request) (int, http.Header) {
			mu.Lock()
			underWay++
			most = max(most, underWay)
			s := status
			mu.Unlock()
			time.Sleep(50 * time.Millisecond)
			mu.Lock()
			underWay--
			mu.Unlock()
			return s, nil
		}
		r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, Config{
			Webhooks: []WebhookConfig{{Name: "w", URL: "https://r.example/", Retry: []time.Duration{time.Second, 10 * time.Second}}},
		})
		defer stop()
		accept(t, r, "fb_0")
		time.Sleep(20 * time.Second)
		if w, _ := r.Webhook("w"); w.State != Failing {
			t.Fatalf("the webhook is %s", w.State)
		}
		before := len(rs.all())
		mu.Lock()
		most = 0
		mu.Unlock()
		for i := range 40 {
			accept(t, r, fmt.Sprintf("fb_%d", i+1))
		}
		time.Sleep(time.Minute)
		probes := len(rs.all()) - before
		if probes < 4 || probes > 10 {
			t.Errorf("%d probes in a minute, with delays from 1 s to 10 s", probes)
		}
		mu.Lock()
		if most != 1 {
			t.Errorf("%d attempts at once on a failing webhook", most)
		}
		mu.Unlock()
		untouched := 0
		page, err := r.Queue().Deliveries(t.Context(), queue.DeliveryQuery{Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range page.Items {
			if d.Attempts == 0 {
				untouched++
			}
		}
		if untouched < 30 {
			t.Errorf("only %d of 40 wait without having used a rung", untouched)
		}
		mu.Lock()
		status = 200
		mu.Unlock()
		time.Sleep(time.Minute)
		if w, _ := r.Webhook("w"); w.State != Active || w.Counts.Pending+w.Counts.Retrying != 0 {
			t.Errorf("a minute after it recovered the webhook is %+v", w)
		}
	})
}

func TestHangingReceiverDelaysNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rs := &receivers{answer: func(r request) (int, http.Header) {
			if r.host == "hangs.example" {
				return 0, nil
			}
			return 200, nil
		}}
		r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, Config{Webhooks: []WebhookConfig{
			{Name: "hangs", URL: "https://hangs.example/", Concurrency: 2}, {Name: "well", URL: "https://well.example/"},
		}})
		defer stop()
		start := time.Now()
		for i := range 100 {
			accept(t, r, fmt.Sprintf("fb_%d", i))
		}
		synctest.Wait()
		if took := time.Since(start); took > time.Millisecond {
			t.Fatalf("100 events took %v of fake time", took)
		}
		if w, _ := r.Webhook("well"); w.Counts.Delivered != 100 {
			t.Errorf("the one that is well has got %d of 100", w.Counts.Delivered)
		}
		time.Sleep(31 * time.Second)
		page, err := r.Queue().Deliveries(t.Context(), queue.DeliveryQuery{Webhook: 1, States: []queue.State{queue.Retrying}})
		if err != nil || len(page.Items) == 0 {
			t.Fatalf("nothing of the hanging one waits for a retry: %v", err)
		}
		attempts, err := r.Queue().Attempts(t.Context(), page.Items[0].ID)
		if err != nil || attempts[0].ErrorClass != "timeout" || attempts[0].Duration != 30*time.Second {
			t.Errorf("a hanging attempt reads %+v, %v", attempts, err)
		}
	})
}

func TestStopCountsNoAttemptItCutsOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := memqueue.New(memqueue.Options{})
		rs := &receivers{answer: always(0)}
		c := Config{Webhooks: []WebhookConfig{{Name: "w", URL: "https://r.example/"}}}
		r, stop := startOn(t, q, rs, c)
		e := accept(t, r, "fb_1")
		synctest.Wait()
		stop()
		stop() // may be called twice
		d, err := q.Delivery(t.Context(), queue.DeliveryID{Event: e.ID, Webhook: 1})
		if err != nil || d.State != queue.Pending || d.Attempts != 0 {
			t.Fatalf("cut off, the delivery is %+v, %v", d, err)
		}
		rs.answer = always(200)
		_, stop = startOn(t, q, rs, c)
		defer stop()
		synctest.Wait()
		if d, _ := q.Delivery(t.Context(), d.ID); d.State != queue.Delivered || d.Attempts != 1 {
			t.Errorf("after the next start the delivery is %+v", d)
		}
	})
}

func TestGoneDisablesAndHolds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rs := &receivers{answer: always(http.StatusGone)}
		r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, Config{Webhooks: []WebhookConfig{{Name: "w", URL: "https://r.example/"}}})
		defer stop()
		e := accept(t, r, "fb_1")
		time.Sleep(100 * time.Hour)
		accept(t, r, "fb_2")
		w, _ := r.Webhook("w")
		if n := len(rs.all()); n != 1 || w.State != Disabled || w.Counts.Held != 1 {
			t.Errorf("after 410: %d requests, webhook %+v", n, w)
		}
		d, err := r.Queue().Delivery(t.Context(), queue.DeliveryID{Event: e.ID, Webhook: w.ID})
		if err != nil || r.DeliveryState(d) != "held" {
			t.Errorf("its delivery reads %s, %v", r.DeliveryState(d), err)
		}
	})
}

func TestRetryAfterLengthensARung(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rs := &receivers{answer: func(request) (int, http.Header) {
			return http.StatusServiceUnavailable, http.Header{"Retry-After": {"600"}}
		}}
		r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, Config{
			Webhooks: []WebhookConfig{{Name: "w", URL: "https://r.example/", Retry: []time.Duration{time.Minute, time.Hour}}},
		})
		defer stop()
		accept(t, r, "fb_1")
		time.Sleep(2 * time.Hour)
		seen := rs.all()
		if len(seen) != 3 || seen[1].at.Sub(seen[0].at) != 10*time.Minute || seen[2].at.Sub(seen[1].at) != time.Hour {
			t.Errorf("asked for ten minutes, got retries %v", seen)
		}
	})
}

func TestRotationServesReceiversOfEitherSecret(t *testing.T) {
	t.Parallel()
	for _, known := range []string{"old", "new"} {
		synctest.Test(t, func(t *testing.T) {
			sg, err := signature.NewSigner(known)
			if err != nil {
				t.Fatal(err)
			}
			rs := &receivers{answer: func(r request) (int, http.Header) {
				if r.header["X-UserHero-Signature"][0] != string(sg.AppendPlain(nil, []byte(r.body))) {
					return http.StatusUnauthorized, nil
				}
				return 200, nil
			}}
			r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, Config{
				Webhooks: []WebhookConfig{{Name: "w", URL: "https://r.example/", Secret: "new", PreviousSecret: "old", Concurrency: 1}},
			})
			defer stop()
			for i := range 5 {
				accept(t, r, fmt.Sprintf("fb_%d", i))
			}
			synctest.Wait()
			w, _ := r.Webhook("w")
			want := map[string]int{"old": 5, "new": 6} // the first attempt tries the old signature first; then the new one is remembered
			if n := len(rs.all()); w.Counts.Delivered != 5 || n != want[known] {
				t.Errorf("a receiver of the %s secret got %d of 5 in %d requests, want %d", known, w.Counts.Delivered, n, want[known])
			}
			for _, s := range rs.all() {
				if !strings.Contains(s.header["webhook-signature"][0], " ") {
					t.Error("webhook-signature has one signature during a rotation")
				}
			}
		})
	}
}

func TestNewestSettingsWinAndFormerComeBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rs := &receivers{answer: always(200)}
		first := Config{Webhooks: []WebhookConfig{{Name: "a", URL: "https://a.example/"}}}
		r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, first)
		defer stop()
		second, err := r.Attach(Config{Webhooks: []WebhookConfig{{Name: "b", URL: "https://b.example/"}}})
		if err != nil {
			t.Fatal(err)
		}
		accept(t, r, "fb_1")
		synctest.Wait()
		if a, _ := r.Webhook("a"); !a.Parked || a.Counts.Delivered != 0 {
			t.Errorf("the webhook that left is %+v", a)
		}
		if err := second.Detach(); err != nil {
			t.Fatal(err)
		}
		if err := second.Detach(); err != nil { // may be called twice
			t.Fatal(err)
		}
		accept(t, r, "fb_2")
		synctest.Wait()
		a, _ := r.Webhook("a")
		b, _ := r.Webhook("b")
		if a.Parked || a.Counts.Delivered != 1 || !b.Parked || b.Counts.Delivered != 1 {
			t.Errorf("after the newest was detached: %+v and %+v", a, b)
		}
	})
}

func TestParkedDeliveriesWaitForTheirWebhook(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		status := 500
		rs := &receivers{answer: func(request) (int, http.Header) { return status, nil }}
		c := Config{Webhooks: []WebhookConfig{{Name: "w", URL: "https://r.example/"}}}
		r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, c)
		defer stop()
		accept(t, r, "fb_1")
		synctest.Wait()
		if _, err := r.Attach(Config{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if w, _ := r.Webhook("w"); len(rs.all()) != 1 || w.Counts.Held != 1 {
			t.Fatalf("parked: %d requests, %+v", len(rs.all()), w)
		}
		status = 200
		if _, err := r.Attach(c); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if w, _ := r.Webhook("w"); w.Counts.Delivered != 1 {
			t.Errorf("back again: %+v", w)
		}
	})
}

func TestOrderedUpdateWaitsForItsCreation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		failures := 2
		rs := &receivers{}
		rs.answer = func(request) (int, http.Header) {
			if failures--; failures >= 0 {
				return 500, nil
			}
			return 200, nil
		}
		r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, Config{
			Webhooks: []WebhookConfig{{Name: "w", URL: "https://r.example/", Ordered: true, Retry: []time.Duration{time.Second, time.Minute}}},
		})
		defer stop()
		created := accept(t, r, "fb_1")
		if _, err := r.Accept(t.Context(), queue.Entry{
			Type: string(event.Updated), Feedback: queue.FeedbackID{ID: "fb_1"}, Body: []byte(`{"event":"feedback.updated"}`), Replaces: created.ID,
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		var types []string
		for _, s := range rs.all() {
			types = append(types, s.header["X-UserHero-Event"][0])
		}
		if got := fmt.Sprint(types); got != "[feedback.created feedback.created feedback.created feedback.updated]" {
			t.Errorf("the receiver saw %s", got)
		}
	})
}

func TestRateIsABound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rs := &receivers{answer: always(200)}
		r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, Config{
			Webhooks: []WebhookConfig{{Name: "w", URL: "https://r.example/", Rate: Rate{5, time.Second}}},
		})
		defer stop()
		for i := range 50 {
			accept(t, r, fmt.Sprintf("fb_%d", i))
		}
		time.Sleep(time.Minute)
		seen := rs.all()
		if len(seen) != 50 {
			t.Fatalf("%d of 50 were sent", len(seen))
		}
		if took := seen[49].at.Sub(seen[0].at); took < 9*time.Second || took > 11*time.Second {
			t.Errorf("50 events at 5/s took %v", took)
		}
	})
}
