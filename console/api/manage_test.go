package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/deliver"
	"github.com/userhero/relay/relay/signature"
)

// managed is an API over a relay that may reach receivers on this machine.
type managed struct {
	t     *testing.T
	relay *relay.Relay
	api   http.Handler
}

func newManaged(t *testing.T) *managed {
	t.Helper()
	q := memqueue.New(memqueue.Options{})
	r := relay.New(relay.Options{Queue: q})
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Attach(relay.Config{
		Webhooks: []relay.WebhookConfig{{Name: "file", URL: "https://file.example.com/", Disabled: true}},
		Egress:   deliver.Egress{Allow: []string{"127.0.0.1"}},
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := r.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	served := checked(t, api.New(api.Options{Relay: r}))
	return &managed{t, r, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { served.ServeHTTP(w, api.WithUser(r, "ada")) })}
}

// do sends a request and checks the status; it returns the answer and its text.
func (m *managed) do(method, path, body string, want int) (answer map[string]any, text string) {
	m.t.Helper()
	w := httptest.NewRecorder()
	m.api.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	if w.Code != want {
		m.t.Fatalf("%s %s: %d, want %d: %s", method, path, w.Code, want, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		m.t.Fatalf("%s %s: %v in %s", method, path, err, w.Body)
	}
	return answer, w.Body.String()
}

func (m *managed) accept(id string) {
	m.t.Helper()
	if _, err := m.relay.Accept(m.t.Context(), queue.Entry{
		Type: string(event.Created), Feedback: queue.FeedbackID{ID: id}, Body: fmt.Appendf(nil, `{"event":"feedback.created","data":{"id":%q,"rating":5}}`, id),
	}); err != nil {
		m.t.Fatal(err)
	}
}

// counted waits until the webhook has delivered n.
func (m *managed) delivered(name string, n int64) {
	m.t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		w, ok := m.relay.Webhook(name)
		if ok && w.Counts.Delivered == n && w.Counts.Pending+w.Counts.Retrying == 0 {
			return
		}
		if time.Now().After(end) {
			m.t.Fatalf("webhook %s has %+v, want %d delivered", name, w.Counts, n)
		}
	}
}

func TestWholeLifeOfAWebhook(t *testing.T) {
	t.Parallel()
	var status atomic.Int64
	var tests atomic.Int64
	status.Store(200)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-UserHero-Test") == "true" {
			tests.Add(1)
		}
		w.WriteHeader(int(status.Load()))
		_, _ = io.WriteString(w, "I am here")
	}))
	defer receiver.Close()
	m := newManaged(t)

	added, _ := m.do("POST", "/webhooks", `{"name":"crm","url":"`+receiver.URL+`/hook","generate_secret":true,"retry":["1h","1d"],
		"filter":"data.rating > 1","headers":{"X-Token":"canary"},"rate":"50/s"}`, 201)
	secret, _ := added["secret"].(string)
	if !strings.HasPrefix(secret, "whsec_") || added["source"] != "api" || added["state"] != "active" || fmt.Sprint(added["retry"]) != "[1h 24h]" {
		t.Fatalf("added: %v", added)
	}
	for _, path := range []string{"/webhooks", "/webhooks/crm", "/activity"} {
		if _, text := m.do("GET", path, "", 200); strings.Contains(text, secret) || strings.Contains(text, "canary") {
			t.Errorf("%s shows a secret: %s", path, text)
		}
	}

	if got, _ := m.do("POST", "/webhooks/crm/test", "", 200); got["ok"] != true || got["status"] != 200.0 || got["response_body"] != "I am here" {
		t.Errorf("tested: %v", got)
	}
	status.Store(418)
	if got, _ := m.do("POST", "/webhooks/crm/test", "", 200); got["ok"] != false || got["status"] != 418.0 || got["error_class"] != "http_418" {
		t.Errorf("tested with a teapot: %v", got)
	}
	if got, _ := m.do("GET", "/webhooks/crm", "", 200); got["state"] != "active" || tests.Load() != 2 {
		t.Errorf("tests leave %v, %d were marked", got, tests.Load())
	}
	status.Store(200)

	m.accept("fb_1")
	m.delivered("crm", 1)
	if got, _ := m.do("POST", "/webhooks/crm/disable", "", 200); got["state"] != "disabled" {
		t.Errorf("disabled: %v", got)
	}
	since := time.Now().Add(-time.Second).UTC().Format(time.RFC3339)
	m.accept("fb_2")
	if got, _ := m.do("POST", "/webhooks/crm/enable", "", 200); got["state"] != "active" {
		t.Errorf("enabled: %v", got)
	}
	m.delivered("crm", 1)
	if got, _ := m.do("POST", "/webhooks/crm/redeliver", `{"state":"missed","since":"`+since+`","dry_run":true}`, 200); got["count"] != 1.0 {
		t.Errorf("missed: %v", got)
	}
	m.delivered("crm", 1)
	if got, _ := m.do("POST", "/webhooks/crm/redeliver", `{"since":"`+since+`"}`, 200); got["count"] != 1.0 {
		t.Errorf("recovered: %v", got)
	}
	m.delivered("crm", 2)

	status.Store(503)
	m.accept("fb_waits")
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if w, _ := m.relay.Webhook("crm"); w.Counts.Retrying == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("a delivery that failed is not retried")
		}
	}
	status.Store(200)
	for body, want := range map[string]float64{`{"state":"failed"}`: 0, `{"state":"waiting","dry_run":true}`: 1} {
		if got, _ := m.do("POST", "/webhooks/crm/redeliver", body, 200); got["count"] != want {
			t.Errorf("%s: %v", body, got)
		}
	}
	if w, _ := m.relay.Webhook("crm"); w.Counts.Retrying != 1 {
		t.Errorf("counting leaves %+v", w.Counts)
	}
	if got, _ := m.do("POST", "/webhooks/crm/redeliver", `{"state":"waiting"}`, 200); got["count"] != 1.0 {
		t.Errorf("what waits: %v", got)
	}
	m.delivered("crm", 3)

	deliveries, _ := m.do("GET", "/deliveries?webhook=crm&state=delivered&limit=1", "", 200)
	id := deliveries["items"].([]any)[0].(map[string]any)["id"].(string)
	attempts := deliveries["items"].([]any)[0].(map[string]any)["attempts_made"].(float64)
	m.do("POST", "/deliveries/"+id+"/redeliver", "", 200)
	m.delivered("crm", 3)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if got, _ := m.do("GET", "/deliveries/"+id, "", 200); got["attempts_made"] == attempts+1 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("a redelivered delivery has no further attempt")
		}
	}

	rotated, _ := m.do("POST", "/webhooks/crm/rotate", `{"overlap":"24h"}`, 200)
	if s, _ := rotated["secret"].(string); !strings.HasPrefix(s, "whsec_") || s == secret {
		t.Errorf("rotated: %v", rotated)
	}
	m.accept("fb_3")
	m.delivered("crm", 4)
	newest, _ := m.do("GET", "/deliveries?webhook=crm&limit=1", "", 200)
	headers := newest["items"].([]any)[0].(map[string]any)["attempts"].([]any)[0].(map[string]any)["request_headers"].(map[string]any)
	if !strings.Contains(headers["webhook-signature"].(string), " v1,") {
		t.Errorf("during the overlap webhook-signature is %v", headers["webhook-signature"])
	}

	keys := func(of map[string]any) int { all, _ := of["public_keys"].([]any); return len(all) }
	set, _ := m.do("POST", "/webhooks/crm/rotate-signing-key", "", 200)
	changed, written := m.do("POST", "/webhooks/crm/rotate-signing-key", fmt.Sprintf(`{"overlap":"24h","signing_key":%q}`, signature.NewKey()), 200)
	removed, _ := m.do("PATCH", "/webhooks/crm", `{"signing_key":""}`, 200)
	if keys(set) != 1 || keys(changed) != 2 || keys(removed) != 0 || strings.Contains(written, "whsk_") {
		t.Errorf("signing keys: %v, then %v, then %v", set["public_keys"], changed["public_keys"], removed["public_keys"])
	}
	m.do("POST", "/webhooks/crm/rotate-signing-key", `{"signing_key":"whsk_short"}`, 422)

	if got, _ := m.do("PATCH", "/webhooks/crm", `{"concurrency":2,"retry":[]}`, 200); got["concurrency"] != 2.0 || len(got["retry"].([]any)) != 0 {
		t.Errorf("changed: %v", got)
	}
	status.Store(500)
	m.accept("fb_4")
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if w, _ := m.relay.Webhook("crm"); w.State == "failing" && w.Counts.Failed == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("a ladder without rungs does not fail")
		}
	}
	m.accept("fb_5")
	if got, _ := m.do("DELETE", "/webhooks/crm", "", 200); got["deliveries_ended"] != 1.0 && got["deliveries_ended"] != 0.0 {
		t.Errorf("deleted: %v", got)
	}
	m.do("GET", "/webhooks/crm", "", 404)
	_, log := m.do("GET", "/activity?limit=100", "", 200)
	for _, what := range []string{"webhook added", "webhook disabled", "webhook enabled", "deliveries requeued", "delivery requeued",
		"secret rotated", "webhook changed", "webhook failing", "webhook deleted"} {
		if !strings.Contains(log, `"what":"`+what+`"`) {
			t.Errorf("the activity log does not say %q: %s", what, log)
		}
	}
	if !strings.Contains(log, `"who":"ada"`) {
		t.Errorf("the activity log does not say who: %s", log)
	}
}

func TestWrongRequestsChangeNothing(t *testing.T) {
	t.Parallel()
	m := newManaged(t)
	m.do("POST", "/webhooks", `{"name":"a","url":"https://a.example.com/"}`, 201)
	for _, c := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"POST", "/webhooks", `{"name":"a","url":"https://a.example.com/"}`, 409, "of this name"},
		{"POST", "/webhooks", `{"name":"b"}`, 422, "url"},
		{"POST", "/webhooks", `{"name":"b","url":"https://b.example.com/","filter":"data.rating <"}`, 422, "1:14"},
		{"POST", "/webhooks", `{"name":"b","url":"https://b.example.com/","events":["x"]}`, 422, "events"},
		{"POST", "/webhooks", `{"name":"b","url":"https://b.example.com/","headers":{"X-UserHero-Signature":"x"}}`, 422, "header"},
		{"POST", "/webhooks", `{"name":"b","url":"https://b.example.com/","retry":["soon"]}`, 422, "/retry"},
		{"POST", "/webhooks", `{"name":"b","url":"https://b.example.com/","rate":"x"}`, 422, "/rate"},
		{"POST", "/webhooks", `{"name":"b","url":7}`, 422, "/url"},
		{"POST", "/webhooks", `{"name":"b","urll":"x"}`, 400, "urll"},
		{"POST", "/webhooks", `{`, 400, "JSON"},
		{"POST", "/webhooks", `"` + strings.Repeat("x", 70<<10) + `"`, 413, "bytes"},
		{"PATCH", "/webhooks/a", `{"name":"b c"}`, 422, "name"},
		{"PATCH", "/webhooks/a", `{"name":"file"}`, 409, "of this name"},
		{"PATCH", "/webhooks/file", `{"name":"b"}`, 403, "configuration file"},
		{"PATCH", "/webhooks/a", `{"secret":"b"}`, 422, "rotate"},
		{"PATCH", "/webhooks/file", `{"url":"https://b.example.com/"}`, 403, "configuration file"},
		{"DELETE", "/webhooks/file", ``, 403, "configuration file"},
		{"POST", "/webhooks/file/rotate", ``, 403, "configuration file"},
		{"POST", "/webhooks/file/enable", ``, 403, "configuration file"},
		{"POST", "/webhooks/none/enable", ``, 404, ""},
		{"POST", "/webhooks/none/test", ``, 404, ""},
		{"POST", "/webhooks/a/redeliver", `{"state":"eaten"}`, 422, "/state"},
		{"POST", "/webhooks/a/redeliver", `{"state":"missed"}`, 422, "/since"},
		{"POST", "/deliveries/dlv_x/redeliver", ``, 404, ""},
		{"PUT", "/webhooks/a", ``, 405, "DELETE, GET, HEAD, PATCH"},
		{"DELETE", "/status", ``, 405, "GET, HEAD"},
	} {
		got, text := m.do(c.method, c.path, c.body, c.status)
		if got["status"] != float64(c.status) || !strings.Contains(text, c.says) {
			t.Errorf("%s %s %s: %s, want it to say %q", c.method, c.path, c.body, text, c.says)
		}
	}
	if n := len(m.relay.Webhooks()); n != 2 {
		t.Errorf("%d webhooks, want the two there were", n)
	}
}

// TestWhatIsShownNeverOverwritesASecret: a client that reads a webhook, changes a
// setting and sends all of it back loses nothing.
func TestWhatIsShownNeverOverwritesASecret(t *testing.T) {
	t.Parallel()
	var seen atomic.Value
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		seen.Store(r.RequestURI + " " + r.Header.Get("X-Token") + " " + fmt.Sprint(r.Header.Get("X-UserHero-Signature") != ""))
	}))
	defer receiver.Close()
	m := newManaged(t)
	m.do("POST", "/webhooks", `{"name":"crm","url":"`+receiver.URL+`/hook?token=canary","secret":"s","headers":{"X-Token":"canary"}}`, 201)
	shown, _ := m.do("GET", "/webhooks/crm", "", 200)
	url := shown["url"].(string)
	if strings.Contains(url, "canary") {
		t.Fatalf("the API shows %s", url)
	}
	whole := func(member string) {
		t.Helper()
		m.do("POST", "/webhooks/crm/test", "", 200)
		if got := seen.Load(); got != "/hook?token=canary canary true" {
			t.Errorf("after %s the receiver gets %q", member, got)
		}
	}
	m.do("PATCH", "/webhooks/crm", `{"url":"`+url+`","timeout":"5s"}`, 200)
	whole("the URL as it was shown")
	m.do("PATCH", "/webhooks/crm", `{"headers":{"X-Token":"[redacted]"}}`, 422)
	whole("a header as the attempt log shows it")
	for member, value := range shown {
		body, err := json.Marshal(map[string]any{member: value})
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		m.api.ServeHTTP(w, httptest.NewRequest("PATCH", "/webhooks/crm", strings.NewReader(string(body))))
		whole(string(body))
	}
	all, err := json.Marshal(shown)
	if err != nil {
		t.Fatal(err)
	}
	m.do("PATCH", "/webhooks/crm", string(all), 400) // it holds members that cannot be set, and says so
	whole("all that was shown")
	m.do("PATCH", "/webhooks/crm", `{"tls":{"client_certificate":{"subject":"CN=x"}}}`, 422)
	m.do("POST", "/webhooks", `{"name":"copy","url":"`+url+`"}`, 422)
}

func TestOtherOriginsMayNotWrite(t *testing.T) {
	t.Parallel()
	m := newManaged(t)
	for name, value := range map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"} {
		for method, want := range map[string]int{"POST": http.StatusForbidden, "GET": http.StatusOK} {
			r := httptest.NewRequest(method, "/webhooks", strings.NewReader(`{"name":"b","url":"https://b.example.com/"}`))
			r.Header.Set(name, value)
			w := httptest.NewRecorder()
			m.api.ServeHTTP(w, r)
			if w.Code != want {
				t.Errorf("%s with %s: %d, want %d", method, name, w.Code, want)
			}
		}
	}
}
