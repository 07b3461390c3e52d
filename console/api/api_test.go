package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
	"github.com/userhero/relay/relay"
)

// fixture is an API over a relay with two webhooks: one is disabled, the other
// at an address that the egress guard refuses.
type fixture struct {
	relay *relay.Relay
	api   http.Handler
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	q := memqueue.New(memqueue.Options{})
	r := relay.New(relay.Options{Queue: q, Version: "1.2.3"})
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := r.Attach(relay.Config{Webhooks: []relay.WebhookConfig{{
		Name: "crm", URL: "https://crm.example.com/hook?token=canary", Secret: "canary", Disabled: true,
	}, {
		Name: "erp", URL: "http://127.0.0.1/", Retry: []time.Duration{time.Hour},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := r.Stop(ctx); err != nil {
			t.Error(err)
		}
		if err := q.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return &fixture{r, checked(t, api.New(api.Options{Relay: r, Version: "1.2.3", Started: time.Now()}))}
}

// get asks the API and reads the answer into an object.
func (f *fixture) get(t *testing.T, path string) (status int, body map[string]any) {
	t.Helper()
	w := httptest.NewRecorder()
	f.api.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
		t.Fatalf("%s: %v in %s", path, err, w.Body)
	}
	return w.Code, body
}

// accept stores an event.
func (f *fixture) accept(t *testing.T, id string) {
	t.Helper()
	_, err := f.relay.Accept(t.Context(), queue.Entry{
		Type: string(event.Created), Feedback: queue.FeedbackID{ID: id},
		Body: fmt.Appendf(nil, `{"event":"feedback.created","data":{"id":%q}}`, id),
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestPagesFollowEachOtherWhileNewEventsCome(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for i := range 5 {
		f.accept(t, fmt.Sprintf("fb_%d", i))
	}
	var seen []string
	for cursor := ""; ; {
		_, page := f.get(t, "/events?limit=2&cursor="+cursor)
		for _, item := range page["items"].([]any) {
			seen = append(seen, item.(map[string]any)["feedback_id"].(string))
		}
		next, more := page["next"].(string)
		if !more {
			break
		}
		cursor = next
		f.accept(t, fmt.Sprintf("fb_late_%d", len(seen))) // newer than what is read, so never in the way
	}
	if got := strings.Join(seen, " "); got != "fb_4 fb_3 fb_2 fb_1 fb_0" {
		t.Errorf("pages: %s", got)
	}
}

func TestEventShowsItsExactBodyAndDeliveries(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.accept(t, "fb_1")
	_, page := f.get(t, "/events?q=FB_1")
	listed := page["items"].([]any)[0].(map[string]any)
	_, one := f.get(t, "/events/"+listed["id"].(string))
	if one["body"].(map[string]any)["event"] != "feedback.created" || one["size"] != float64(len(`{"event":"feedback.created","data":{"id":"fb_1"}}`)) {
		t.Errorf("event: %v", one)
	}
	deliveries := one["deliveries"].([]any)
	if len(deliveries) != 1 { // none for the disabled webhook
		t.Fatalf("deliveries: %v", deliveries)
	}
	d := deliveries[0].(map[string]any)
	if d["webhook"] != "erp" || d["event_id"] != one["id"] || d["attempts"] == nil {
		t.Errorf("delivery: %v", d)
	}
	for _, absent := range []string{"body", "deliveries"} {
		if _, ok := listed[absent]; ok {
			t.Errorf("the list holds %s", absent)
		}
	}
}

func TestWebhooksShowNoSecret(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	w := httptest.NewRecorder()
	f.api.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/webhooks", nil))
	if strings.Contains(w.Body.String(), "canary") {
		t.Errorf("a secret shows: %s", w.Body)
	}
	_, crm := f.get(t, "/webhooks/crm")
	if crm["state"] != "disabled" || crm["has_secret"] != true || crm["source"] != "caddyfile" || fmt.Sprint(crm["retry"]) != "[1m 5m 30m 2h 24h]" {
		t.Errorf("webhook: %v", crm)
	}
}

func TestStatusCountsWebhooksByState(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, status := f.get(t, "/status")
	webhooks := status["webhooks"].(map[string]any)
	if webhooks["active"] != 1.0 || webhooks["disabled"] != 1.0 || webhooks["failing"] != 0.0 {
		t.Errorf("webhooks: %v", webhooks)
	}
	if status["version"] != "1.2.3" || status["healthy"] != true {
		t.Errorf("status: %v", status)
	}
}

func TestProblemsNameWhatIsWrong(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, c := range []struct {
		path   string
		status int
		detail string
	}{
		{"/", 404, "/status"},
		{"/webhooks/none", 404, `"none"`},
		{"/events/evt_x", 404, "no such record"},
		{"/deliveries/dlv_x", 404, "no such record"},
		{"/events?since=yesterday&limit=0", 400, `limit: "0"`},
		{"/events?since=yesterday&limit=0", 400, `since: "yesterday"`},
		{"/events?type=feedback.deleted", 400, "feedback.updated"},
		{"/deliveries?state=lost", 400, "retrying"},
		{"/deliveries?webhook=none", 400, `"none"`},
	} {
		status, problem := f.get(t, c.path)
		if status != c.status || problem["status"] != float64(c.status) || !strings.Contains(problem["detail"].(string), c.detail) {
			t.Errorf("%s: %d %v, want %d with %s", c.path, status, problem, c.status, c.detail)
		}
	}
	w := httptest.NewRecorder()
	f.api.ServeHTTP(w, httptest.NewRequest(http.MethodDelete, "/events", nil))
	if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD" {
		t.Errorf("DELETE: %d %v", w.Code, w.Header())
	}
}

func TestHealthSaysWhyNot(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if status, body := f.get(t, "/healthz"); status != http.StatusOK {
		t.Errorf("%d %v", status, body)
	}
	if err := f.relay.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status, body := f.get(t, "/healthz"); status != http.StatusServiceUnavailable || !strings.Contains(body["detail"].(string), "stopped") {
		t.Errorf("after the stop: %d %v", status, body)
	}
}
