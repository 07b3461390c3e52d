package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestSubmissionArrivesSigned(t *testing.T) {
	t.Parallel()
	r := startReceiver(t, nil)
	s := startRelay(t, relayOptions{app: fmt.Sprintf("webhook app {\n url %s\n secret %s\n}", r.url, secret)})

	id := s.mustSubmit("The export button doesn't work")

	all := r.await(t, 10*time.Second, "one arrival", func(all []arrival) bool { return len(all) == 1 })
	got := documentOf(t, all[0])
	if got.Event != "feedback.created" || got.Data.ID != id || got.Data.ProjectID != "proj_e2e" || got.Data.Status != "new" {
		t.Errorf("unexpected document: %s", all[0].body)
	}
	if !all[0].signed || all[0].attempt != "1" || all[0].delivery == "" {
		t.Errorf("signed %t, attempt %q, delivery %q", all[0].signed, all[0].attempt, all[0].delivery)
	}
	eventually(t, 5*time.Second, "the API shows it delivered", func() bool {
		w := s.webhook("app")
		return w.State == "active" && w.Counts.Delivered == 1 && w.Counts.Pending == 0
	})
}

func TestBadSubmissionsAreRefusedWithAProblem(t *testing.T) {
	t.Parallel()
	s := startRelay(t, relayOptions{})
	for _, c := range []struct {
		name, contentType, body string
		status                  int
	}{
		{"not JSON", "application/json", `{"message":`, 400},
		{"a duplicate member", "application/json", `{"message":"a","message":"b"}`, 400},
		{"invalid UTF-8", "application/json", "{\"message\":\"\xff\"}", 400},
		{"too large", "application/json", `{"message":"` + strings.Repeat("a", 65<<10) + `"}`, 413},
		{"another media type", "image/png", `{"message":"a"}`, 415},
		{"no message", "application/json", `{"rating":3}`, 422},
		{"an empty message", "application/json", `{"message":""}`, 422},
		{"a rating of six", "application/json", `{"message":"a","rating":6}`, 422},
		{"an integer beyond 2^53", "application/json", `{"message":"a","metadata":{"n":9007199254740993}}`, 422},
		{"a lone surrogate", "application/json", `{"message":"a","metadata":{"s":"\ud800"}}`, 422},
		{"a member __proto__", "application/json", `{"message":"a","metadata":{"__proto__":1}}`, 422},
	} {
		t.Run(c.name, func(t *testing.T) {
			response, answer, err := s.post(c.contentType, []byte(c.body))
			if err != nil {
				t.Fatal(err)
			}
			if response.StatusCode != c.status || response.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s %s, want %d as problem: %s", response.Status, response.Header.Get("Content-Type"), c.status, answer)
			}
		})
	}
}
