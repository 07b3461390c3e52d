package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// exchange sends one request to the site and returns its answer.
func (s *relayServer) exchange(method, path, body string, header ...string) (*http.Response, string) {
	s.t.Helper()
	request, err := http.NewRequest(method, "http://"+s.site+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := s.client.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return response, string(answer)
}

func TestIntakeTakesWhatBrowsersSend(t *testing.T) {
	t.Parallel()
	r := startReceiver(t, nil)
	s := startRelay(t, relayOptions{
		app:    fmt.Sprintf("webhook app {\n url %s\n secret %s\n}", r.url, secret),
		intake: "widget w_e2e\n allow_origin https://app.example.com\n",
	})
	const multipart = "--b\r\nContent-Disposition: form-data; name=\"message\"\r\n\r\nsent as multipart\r\n--b--\r\n"
	for _, c := range []struct{ message, contentType, body string }{
		{"sent as JSON", "application/json; charset=utf-8", `{"message":"sent as JSON"}`},
		{"sent as a beacon", "text/plain;charset=UTF-8", `{"message":"sent as a beacon"}`},
		{"sent as a form", "application/x-www-form-urlencoded", "message=sent+as+a+form&metadata.plan=pro&context.viewport.width=390&rating=4"},
		{"sent as multipart", "multipart/form-data; boundary=b", multipart},
	} {
		response, answer := s.exchange(http.MethodPost, "/feedback", c.body,
			"Content-Type", c.contentType, "Origin", "https://app.example.com", "Accept", "application/json")
		if response.StatusCode != http.StatusAccepted {
			t.Errorf("%s: %s: %s", c.message, response.Status, answer)
		}
		if origin := response.Header.Get("Access-Control-Allow-Origin"); origin != "https://app.example.com" {
			t.Errorf("%s: Access-Control-Allow-Origin %q", c.message, origin)
		}
	}
	all := r.await(t, 10*time.Second, "all four", func(all []arrival) bool { return len(all) == 4 })
	for _, a := range all {
		if !a.signed || !strings.Contains(a.body, `"widgetId":"w_e2e"`) {
			t.Errorf("unexpected document: %s", a.body)
		}
		if strings.Contains(a.body, "sent as a form") &&
			(!strings.Contains(a.body, `"rating":4`) || !strings.Contains(a.body, `"metadata":{"plan":"pro"}`) || !strings.Contains(a.body, `"viewport":{"width":390}`)) {
			t.Errorf("the form's fields: %s", a.body)
		}
	}

	response, _ := s.exchange(http.MethodOptions, "/feedback", "",
		"Origin", "https://app.example.com", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "content-type")
	if response.StatusCode/100 != 2 || !strings.Contains(response.Header.Get("Access-Control-Allow-Methods"), "POST") {
		t.Errorf("preflight: %s %v", response.Status, response.Header)
	}
	response, _ = s.exchange(http.MethodPost, "/feedback", `{"message":"m"}`, "Content-Type", "application/json", "Origin", "https://evil.example")
	if origin := response.Header.Get("Access-Control-Allow-Origin"); origin != "" {
		t.Errorf("a foreign origin is allowed: %q", origin)
	}
	response, _ = s.exchange(http.MethodGet, "/feedback", "")
	if response.StatusCode != http.StatusMethodNotAllowed || response.Header.Get("Allow") == "" {
		t.Errorf("GET: %s, Allow %q", response.Status, response.Header.Get("Allow"))
	}
}

func TestUpdateSendsTheWholeFeedback(t *testing.T) {
	t.Parallel()
	r := startReceiver(t, nil)
	s := startRelay(t, relayOptions{
		app:    fmt.Sprintf("webhook app {\n url %s\n secret %s\n}", r.url, secret),
		intake: "update_auth token-of-e2e\n",
	})
	id := s.mustSubmit("please change my status")
	update := func(path string, header ...string) *http.Response {
		response, _ := s.exchange(http.MethodPatch, path, `{"status":"done","metadata":{"by":"ops"}}`, append(header, "Content-Type", "application/json")...)
		return response
	}
	if response := update("/feedback/" + id); response.StatusCode != http.StatusForbidden {
		t.Errorf("without a token: %s", response.Status)
	}
	if response := update("/feedback/fb_nobody", "Authorization", "Bearer token-of-e2e"); response.StatusCode != http.StatusNotFound {
		t.Errorf("an unknown id: %s", response.Status)
	}
	if response := update("/feedback/"+id, "Authorization", "Bearer token-of-e2e"); response.StatusCode != http.StatusAccepted {
		t.Errorf("with the token: %s", response.Status)
	}
	all := r.await(t, 10*time.Second, "creation and update", func(all []arrival) bool { return len(all) == 2 })
	for _, a := range all {
		d := documentOf(t, a)
		if d.Data.Message != "please change my status" || (d.Event == "feedback.updated") != (d.Data.Status == "done") {
			t.Errorf("unexpected document: %s", a.body)
		}
	}
}

func TestRepeatedSubmissionMakesOneEvent(t *testing.T) {
	t.Parallel()
	r := startReceiver(t, nil)
	s := startRelay(t, relayOptions{app: fmt.Sprintf("webhook app {\n url %s\n secret %s\n}", r.url, secret)})
	submit := func(body, key string) (*http.Response, string) {
		return s.exchange(http.MethodPost, "/feedback", body, "Content-Type", "application/json", "Idempotency-Key", key)
	}
	_, first := submit(`{"message":"once"}`, "key-1")
	s.killAndRestart()
	response, again := submit(`{"message":"once"}`, "key-1")
	if response.StatusCode != http.StatusAccepted || again != first || response.Header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("the repeat: %s %v: %s, first %s", response.Status, response.Header, again, first)
	}
	if response, answer := submit(`{"message":"other"}`, "key-1"); response.StatusCode != http.StatusUnprocessableEntity {
		t.Errorf("the same key with another body: %s: %s", response.Status, answer)
	}
	s.mustSubmit("last")
	r.await(t, 10*time.Second+takeover, "the last one", func(all []arrival) bool {
		for _, a := range all {
			if documentOf(t, a).Data.Message == "last" {
				return true
			}
		}
		return false
	})
	events := map[string]bool{}
	for _, a := range r.arrivals() {
		events[a.delivery] = true
	}
	if len(events) != 2 {
		t.Errorf("%d events of two submissions", len(events))
	}
}

func TestFilterChoosesEvents(t *testing.T) {
	t.Parallel()
	r := startReceiver(t, nil)
	s := startRelay(t, relayOptions{app: fmt.Sprintf(
		"webhook bugs {\n url %s\n secret %s\n filter `data.rating <= 2 && data.category == \"bug\"`\n}", r.url, secret)})
	for _, body := range []string{
		`{"message":"no","rating":5,"category":"bug"}`, `{"message":"no","category":"bug"}`, `{"message":"yes","rating":1,"category":"bug"}`,
	} {
		if response, answer, err := s.submit([]byte(body)); err != nil || response.StatusCode != http.StatusAccepted {
			t.Fatalf("%v %s", err, answer)
		}
	}
	all := r.await(t, 10*time.Second, "one arrival", func(all []arrival) bool { return len(all) > 0 })
	if len(all) != 1 || documentOf(t, all[0]).Data.Message != "yes" {
		t.Errorf("%d arrivals, the first %s", len(all), all[0].body)
	}
	var status struct{ Events int }
	s.get("/status", &status)
	if status.Events != 3 {
		t.Errorf("%d events are stored, want all three", status.Events)
	}
}

func TestPassthroughAnswersForTheApplication(t *testing.T) {
	t.Parallel()
	r := startReceiver(t, nil)
	s := startRelay(t, relayOptions{
		app:    fmt.Sprintf("webhook app {\n url %s\n secret %s\n}", r.url, secret),
		intake: "passthrough",
		// The application.
		site: "header /feedback X-Application yes\n respond /feedback `{\"id\":\"app-17\",\"status\":\"triaged\"}` 201",
	})
	response, answer := s.exchange(http.MethodPost, "/feedback", `{"message":"for the app"}`, "Content-Type", "application/json")
	var got struct{ ID string }
	if response.StatusCode != http.StatusCreated || response.Header.Get("X-Application") != "yes" || json.Unmarshal([]byte(answer), &got) != nil || got.ID != "app-17" {
		t.Errorf("the application's answer: %s %v: %s", response.Status, response.Header, answer)
	}
	all := r.await(t, 10*time.Second, "one arrival", func(all []arrival) bool { return len(all) == 1 })
	if d := documentOf(t, all[0]); d.Data.ID != "app-17" || d.Data.Status != "triaged" || d.Data.Message != "for the app" {
		t.Errorf("unexpected document: %s", all[0].body)
	}
}
