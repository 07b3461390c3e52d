package caddymodule

import (
	"net/http"
	"slices"
	"testing"
)

func TestAdminAPIShowsDeliveries(t *testing.T) {
	s, h := newSite(t), newHook(t)
	h.mu.Lock()
	h.status = http.StatusTeapot
	h.mu.Unlock()
	s.load(webhookTo(h)+"retry 1h\n", directive)
	feedback := s.post(`{"message":"hi"}`).json(t)["id"]
	h.await(t, 1)

	var delivery map[string]any
	eventually(t, func() bool {
		items := s.api("/deliveries?webhook=crm&state=retrying").json(t)["items"].([]any)
		if len(items) == 1 {
			delivery = items[0].(map[string]any)
		}
		return delivery != nil
	})
	for name, want := range map[string]any{
		"feedback_id": feedback, "type": "feedback.created", "webhook": "crm", "state": "retrying", "attempts_made": 1.0,
	} {
		if delivery[name] != want {
			t.Errorf("delivery: %s is %v, want %v", name, delivery[name], want)
		}
	}
	if delivery["next_attempt_at"] == nil || delivery["ended_at"] != nil {
		t.Errorf("delivery: %v", delivery)
	}
	one := s.api("/deliveries/" + delivery["id"].(string)).json(t)
	attempt := one["attempts"].([]any)[0].(map[string]any)
	if attempt["number"] != 1.0 || attempt["status"] != 418.0 || attempt["error"] == nil || attempt["request_headers"] == nil {
		t.Errorf("attempt: %v", attempt)
	}

	e := s.api("/events/" + delivery["event_id"].(string)).json(t)
	if e["feedback_id"] != feedback || e["body"].(map[string]any)["event"] != "feedback.created" || len(e["deliveries"].([]any)) != 1 {
		t.Errorf("event: %v", e)
	}
	listed := s.api("/events?type=feedback.created&q=HI&limit=10").json(t)["items"].([]any)[0].(map[string]any)
	if listed["id"] != e["id"] || listed["body"] != nil || listed["deliveries"] != nil {
		t.Errorf("listed event: %v", listed)
	}

	w := s.api("/webhooks/crm").json(t)
	if w["source"] != "caddyfile" || w["state"] != "active" || w["counts"].(map[string]any)["retrying"] != 1.0 || w["url"] != h.URL {
		t.Errorf("webhook: %v", w)
	}
	if n := len(s.api("/webhooks").json(t)["items"].([]any)); n != 1 {
		t.Errorf("%d webhooks", n)
	}

	status := s.api("/status").json(t)
	if status["healthy"] != true || status["deliveries"].(map[string]any)["retrying"] != 1.0 || status["events"] != 1.0 || status["disk_bytes"].(float64) <= 0 {
		t.Errorf("status: %v", status)
	}
	if a := s.api("/healthz"); a.Status != http.StatusOK {
		t.Errorf("healthz: %d %s", a.Status, a.Body)
	}
}

func TestAdminAPIPagesThroughEvents(t *testing.T) {
	s := newSite(t)
	s.load("", directive)
	var sent []string
	for range 7 {
		sent = append(sent, s.post(`{"message":"hi"}`).json(t)["id"].(string))
	}
	var seen []string
	for cursor := ""; ; {
		page := s.api("/events?limit=3&cursor=" + cursor).json(t)
		for _, item := range page["items"].([]any) {
			seen = append(seen, item.(map[string]any)["feedback_id"].(string))
		}
		next, more := page["next"].(string)
		if !more {
			break
		}
		cursor = next
	}
	slices.Reverse(seen)
	if !slices.Equal(sent, seen) {
		t.Errorf("sent %v\nseen %v", sent, seen)
	}
}

func TestAdminAPIProblems(t *testing.T) {
	s := newSite(t)
	s.load("", directive)
	s.post(`{"message":"hi"}`)
	for path, status := range map[string]int{
		"/":                                      404,
		"/nothing":                               404,
		"/webhooks/none":                         404,
		"/events/evt_x":                          404,
		"/events/evt_00000000000000000000000000": 404,
		"/deliveries/dlv_x":                      404,
		"/deliveries/dlv_00000000000000000000000000_1": 404,
		"/events?since=yesterday":                      400,
		"/events?limit=0":                              400,
		"/events?type=feedback.deleted":                400,
		"/events?cursor=%21%21":                        400,
		"/deliveries?state=lost":                       400,
		"/deliveries?webhook=none":                     400,
	} {
		a := s.api(path)
		if a.Status != status || a.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s %s, want %d", path, a.Status, a.Header.Get("Content-Type"), a.Body, status)
		}
	}
	a, err := request(http.MethodPost, "http://"+s.admin+"/userhero/status", "{}")
	if err != nil {
		t.Fatal(err)
	}
	if a.Status != http.StatusMethodNotAllowed || a.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST /status: %d, Allow %q", a.Status, a.Header.Get("Allow"))
	}
}
