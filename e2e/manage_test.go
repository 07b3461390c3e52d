package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// ask sends a request with a JSON body to the admin API, checks the status and
// returns the answer.
func (s *relayServer) ask(method, path, body string, want int) map[string]any {
	s.t.Helper()
	request, err := http.NewRequest(method, "http://"+s.admin+"/userhero"+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := s.client.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	var answer map[string]any
	if err := json.Unmarshal(text, &answer); err != nil || response.StatusCode != want {
		s.t.Fatalf("%s %s: %s, want %d: %s", method, path, response.Status, want, text)
	}
	return answer
}

// settled waits until nothing waits for a webhook, and returns it.
func (s *relayServer) settled(name string, delivered int) webhookView {
	s.t.Helper()
	var w webhookView
	eventually(s.t, 20*time.Second, fmt.Sprintf("%d delivered to %s", delivered, name), func() bool {
		w = s.webhook(name)
		return w.Counts.Delivered == delivered && w.Counts.Pending+w.Counts.Retrying == 0
	})
	return w
}

// TestWebhookIsManagedWithoutAFile: added, tested, paused, repaired, deleted,
// and the relay is killed in between; the API shows the right thing at each step.
func TestWebhookIsManagedWithoutAFile(t *testing.T) {
	t.Parallel()
	var teapot atomic.Bool
	var tests atomic.Int32
	r := startReceiver(t, nil)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if request.Header.Get("X-UserHero-Test") == "true" {
			tests.Add(1)
			if teapot.Load() {
				w.WriteHeader(http.StatusTeapot)
			}
			return
		}
		r.ServeHTTP(w, request)
	}))
	t.Cleanup(front.Close)
	s := startRelay(t, relayOptions{})

	added := s.ask("POST", "/webhooks", fmt.Sprintf(`{"name":"app","url":%q,"secret":%q}`, front.URL, secret), 201)
	if added["state"] != "active" || added["source"] != "api" || added["secret"] != nil {
		t.Errorf("added: %v", added)
	}
	if got := s.ask("POST", "/webhooks/app/test", "", 200); got["ok"] != true || got["status"] != 200.0 {
		t.Errorf("tested: %v", got)
	}
	teapot.Store(true)
	got := s.ask("POST", "/webhooks/app/test", "", 200)
	headers, _ := got["request_headers"].(map[string]any)
	if got["ok"] != false || got["status"] != 418.0 || headers["X-UserHero-Test"] != "true" {
		t.Errorf("tested with 418: %v", got)
	}
	if w := s.webhook("app"); w.State != "active" || w.Counts.Delivered != 0 || tests.Load() != 2 {
		t.Errorf("after %d tests: %+v", tests.Load(), w)
	}

	s.mustSubmit("before the pause")
	s.settled("app", 1)
	if got := s.ask("POST", "/webhooks/app/disable", "", 200); got["state"] != "disabled" {
		t.Errorf("disabled: %v", got)
	}
	s.killAndRestart() // right after the answer: what was answered is kept
	if w := s.webhook("app"); w.State != "disabled" || w.Counts.Delivered != 1 {
		t.Errorf("disabled, after a kill: %+v", w)
	}
	since := time.Now().Add(-time.Second).UTC().Format(time.RFC3339)
	missed := s.mustSubmit("in the pause")
	if w := s.webhook("app"); w.Counts.Held != 0 || w.Counts.Pending != 0 {
		t.Errorf("a disabled webhook gets new deliveries: %+v", w)
	}
	if got := s.ask("POST", "/webhooks/app/enable", "", 200); got["state"] != "active" {
		t.Errorf("enabled: %v", got)
	}
	recovery := func(dry string) any {
		return s.ask("POST", "/webhooks/app/redeliver", fmt.Sprintf(`{"state":"missed","since":%q%s}`, since, dry), 200)["count"]
	}
	if got := recovery(`,"dry_run":true`); got != 1.0 {
		t.Errorf("%v were missed, want 1", got)
	}
	s.settled("app", 1)
	if got := recovery(""); got != 1.0 {
		t.Errorf("%v recovered, want 1", got)
	}
	s.settled("app", 2)
	if got := recovery(""); got != 0.0 {
		t.Errorf("%v recovered a second time", got)
	}
	if ids := feedbackIDs(t, r.arrivals()); len(ids) != 2 || ids[missed] != 1 {
		t.Errorf("arrived: %v, want two, and %s once", ids, missed)
	}

	s.killAndRestart()
	if w := s.webhook("app"); w.State != "active" || w.Counts.Delivered != 2 {
		t.Errorf("after a kill: %+v", w)
	}
	s.mustSubmit("after the kill")
	s.settled("app", 3)
	if got := s.ask("DELETE", "/webhooks/app", "", 200); got["deliveries_ended"] != 0.0 {
		t.Errorf("deleted: %v", got)
	}
	s.killAndRestart()
	s.ask("GET", "/webhooks/app", "", 404)
	s.mustSubmit("to nobody")

	var log struct {
		Items []struct{ What, Who, Webhook string }
	}
	s.get("/activity", &log)
	var whats []string
	for i := len(log.Items) - 1; i >= 0; i-- {
		if l := log.Items[i]; l.Webhook != "app" || l.Who != "admin" {
			t.Errorf("unexpected activity: %+v", l)
		}
		whats = append(whats, log.Items[i].What)
	}
	if got := strings.Join(whats, ", "); got != "webhook added, webhook disabled, webhook enabled, deliveries requeued, webhook deleted" {
		t.Errorf("activity: %s", got)
	}
}

// TestRotationServesEitherSecret: during the overlap a receiver that has only
// the former secret and one that has only the new one take every delivery at its
// first attempt, by either signature.
func TestRotationServesEitherSecret(t *testing.T) {
	t.Parallel()
	const former, present = "former-secret-of-e2e", "present-secret-of-e2e"
	s := startRelay(t, relayOptions{})
	names := []string{"former", "present", "former-standard", "present-standard"}
	for _, name := range names {
		known := former
		if strings.HasPrefix(name, "present") {
			known = present
		}
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
			body, err := io.ReadAll(request.Body)
			if err != nil {
				return
			}
			h := request.Header
			valid := h.Get("X-UserHero-Signature") == "sha256="+hexHMAC(known, body)
			if strings.HasSuffix(name, "standard") {
				signed := fmt.Sprintf("%s.%s.%s", h.Get("webhook-id"), h.Get("webhook-timestamp"), body)
				valid = strings.Contains(" "+h.Get("webhook-signature")+" ", " v1,"+base64HMAC(known, []byte(signed))+" ")
			}
			if !valid {
				w.WriteHeader(http.StatusUnauthorized)
			}
		}))
		t.Cleanup(server.Close)
		s.ask("POST", "/webhooks", fmt.Sprintf(`{"name":%q,"url":%q,"secret":%q,"retry":[]}`, name, server.URL, former), 201)
	}
	for _, name := range names {
		s.ask("POST", "/webhooks/"+name+"/rotate", fmt.Sprintf(`{"secret":%q,"overlap":"1h"}`, present), 200)
	}
	for i := range 5 {
		s.mustSubmit(fmt.Sprintf("during the overlap %d", i))
	}
	for _, name := range names {
		s.settled(name, 5)
		for _, d := range s.deliveries(name) {
			if d.State != "delivered" || d.AttemptsMade != 1 {
				t.Errorf("%s: %s is %s after %d attempts", name, d.ID, d.State, d.AttemptsMade)
			}
		}
	}
	// The control: without an overlap the former secret is refused.
	s.ask("POST", "/webhooks/former/rotate", fmt.Sprintf(`{"secret":%q}`, present), 200)
	s.mustSubmit("after the overlap")
	eventually(t, 20*time.Second, "the receiver with the former secret refuses", func() bool { return s.webhook("former").State == "failing" })
}

// TestOrderedUpdateWaitsForItsCreation, whose first attempt fails; a webhook
// that does not ask for order gets the update meanwhile.
func TestOrderedUpdateWaitsForItsCreation(t *testing.T) {
	t.Parallel()
	var failed sync.Map // ids of deliveries that were refused once
	refuseOnce := func(a arrival) int {
		if _, again := failed.LoadOrStore(a.delivery, true); !again && strings.Contains(a.body, "feedback.created") {
			return http.StatusServiceUnavailable
		}
		return http.StatusOK
	}
	ordered, unordered := startReceiver(t, refuseOnce), startReceiver(t, refuseOnce)
	s := startRelay(t, relayOptions{
		app:    fmt.Sprintf("webhook ordered {\n url %s\n retry 3s\n ordered\n}\nwebhook unordered {\n url %s\n retry 3s\n}", ordered.url, unordered.url),
		intake: "update_auth token",
	})
	id := s.mustSubmit("ordered")
	for _, status := range []string{"triaged", "done"} {
		response, answer := s.exchange(http.MethodPatch, "/feedback/"+id, `{"status":"`+status+`"}`,
			"Content-Type", "application/json", "Authorization", "Bearer token")
		if response.StatusCode != http.StatusAccepted {
			t.Fatalf("%s: %s", response.Status, answer)
		}
	}
	inOrder := func(all []arrival) string {
		var seen []string
		for _, a := range all {
			seen = append(seen, documentOf(t, a).Data.Status)
		}
		return strings.Join(seen, " ")
	}
	four := func(all []arrival) bool { return len(all) == 4 }
	if got := inOrder(ordered.await(t, 20*time.Second, "one failure and three deliveries", four)); got != "new new triaged done" {
		t.Errorf("with ordered: %s", got)
	}
	if got := inOrder(unordered.await(t, 20*time.Second, "one failure and three deliveries", four)); !strings.HasSuffix(got, " new") {
		t.Errorf("the control, without ordered, keeps the order too: %s", got)
	}
}

// TestWrongFilterIsRefusedWithItsPosition, by the file and by the API.
func TestWrongFilterIsRefusedWithItsPosition(t *testing.T) {
	t.Parallel()
	s := startRelay(t, relayOptions{})
	const position = "1:14"
	answer := s.ask("POST", "/webhooks", `{"name":"a","url":"https://a.example/","filter":"data.rating <"}`, 422)
	if text := fmt.Sprint(answer); !strings.Contains(text, position) || !strings.Contains(text, "filter") {
		t.Errorf("the API says %s", text)
	}
	o := s.options
	o.app = "webhook a {\n url https://a.example/\n filter `data.rating <`\n}"
	err := s.reload(s.caddyfile(o))
	if err == nil || !strings.Contains(err.Error(), position) || !strings.Contains(err.Error(), "webhook a") {
		t.Errorf("reloading says %v", err)
	}
	if out, err := s.process.Run(t.Context(), "validate", "--config", "Caddyfile"); err == nil || !strings.Contains(out, position) {
		t.Errorf("validate: %v: %s", err, out)
	}
	o.app = "webhook a {\n url https://a.example/\n filter `data.rating < 3`\n}"
	if err := s.reload(s.caddyfile(o)); err != nil {
		t.Errorf("the control: %v", err)
	}
	if got := s.ask("GET", "/webhooks/a", "", 200)["filter"]; got != "data.rating < 3" {
		t.Errorf("the filter in force is %v", got)
	}
}
