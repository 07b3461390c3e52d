package caddymodule

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// lines returns the relay's lines of a log, decoded.
func lines(t *testing.T, s *site) (all []map[string]any) {
	t.Helper()
	for line := range strings.Lines(s.log()) {
		var decoded map[string]any
		if err := json.Unmarshal([]byte(line), &decoded); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		if logger, _ := decoded["logger"].(string); strings.HasPrefix(logger, "userhero") {
			all = append(all, decoded)
		}
	}
	return all
}

// TestLogTellsWhatToActOnAndNoMore: a receiver that refuses hundreds of events causes
// only a few lines above DEBUG. Each line names its webhook and delivery. None
// contains a payload, a secret or a query.
func TestLogTellsWhatToActOnAndNoMore(t *testing.T) {
	s, h := newSite(t), newHook(t)
	h.status = http.StatusInternalServerError
	s.load(fmt.Sprintf(`webhook crm {
		url %s/hook?token=canary
		secret canary
		header Authorization "Bearer canary"
		retry 1ms 1h
	}`, h.URL), directive)
	const events = 200
	for i := range events {
		s.post(fmt.Sprintf(`{"message":"canary %d"}`, i))
	}
	h.await(t, 2*events)
	h.mu.Lock()
	h.status = http.StatusNoContent
	h.mu.Unlock()
	s.post(`{"message":"canary"}`)
	h.await(t, 2*events+1)
	awaitLog(t, s, `"msg":"delivered"`)

	var warned, delivered map[string]any
	loud, attempts := 0, 0
	for _, line := range lines(t, s) {
		if strings.Contains(fmt.Sprint(line), "canary") {
			t.Errorf("a payload, a secret or a query is in %v", line)
		}
		if line["level"] != "debug" {
			loud++
		}
		switch line["msg"] {
		case "an attempt failed":
			attempts++
			if line["level"] == "warn" {
				warned = line
			}
		case "delivered":
			delivered = line
		}
	}
	if loud > 10 {
		t.Errorf("%d lines above DEBUG for %d events", loud, events)
	}
	if attempts < 2*events {
		t.Errorf("DEBUG has %d failed attempts of %d", attempts, 2*events)
	}
	for what, line := range map[string]map[string]any{
		"webhook event delivery attempt traceID spanID class error next": warned,
		"webhook event delivery attempt traceID spanID status duration":  delivered,
	} {
		for key := range strings.FieldsSeq(what) {
			if line[key] == nil || line[key] == "" {
				t.Errorf("%q is missing in %v", key, line)
			}
		}
	}
}

// TestUnreachableWebhookIsToldOnce: there is one line when a webhook becomes
// unreachable, and one when it can be reached again.
func TestUnreachableWebhookIsToldOnce(t *testing.T) {
	s, h := newSite(t), newHook(t)
	address := h.Listener.Addr().String()
	h.Close()
	s.load(fmt.Sprintf("webhook crm {\nurl http://%s/\nretry 10ms 10ms 20ms 20ms 20ms 20ms 20ms 20ms 20ms 20ms 20ms 20ms 20ms 20ms 20ms 20ms\n}", address), directive)
	s.post(`{"message":"nobody there"}`)
	awaitLog(t, s, "a webhook cannot be reached")
	back := &hook{status: http.StatusNoContent, signal: make(chan struct{})}
	back.Server = httptest.NewUnstartedServer(back)
	_ = back.Listener.Close()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	back.Listener = listener
	back.Start()
	t.Cleanup(back.Close)
	back.await(t, 1)
	awaitLog(t, s, "a webhook can be reached again")
	if n := strings.Count(s.log(), "a webhook cannot be reached"); n != 1 {
		t.Errorf("%d lines say that the webhook cannot be reached", n)
	}
}

// TestWebhookThatLeavesTheConfigurationIsTold: the log reports it, because the
// webhook's deliveries wait, and the name may be mistyped.
func TestWebhookThatLeavesTheConfigurationIsTold(t *testing.T) {
	s, h := newSite(t), newHook(t)
	h.status = http.StatusInternalServerError
	s.load(webhookTo(h), directive)
	s.post(`{"message":"waits"}`)
	h.await(t, 1)
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(s.api("/deliveries").Body, `"retrying"`) && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	s.load("", directive)
	var told map[string]any
	for _, line := range lines(t, s) {
		if strings.Contains(line["msg"].(string), "left the configuration") {
			told = line
		}
	}
	if told["webhook"] != "crm" || told["waiting"] != 1.0 || told["level"] != "warn" {
		t.Errorf("the log says %v", told)
	}
}
