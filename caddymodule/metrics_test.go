package caddymodule

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestNoticesThatWaitForOthersAreNotLate: a notice that waits a minute to be grouped
// does not count as late. A delivery that waits for its attempt does.
func TestNoticesThatWaitForOthersAreNotLate(t *testing.T) {
	s, h := newSite(t), newHook(t)
	h.status = http.StatusInternalServerError
	s.load("webhook app {\nurl "+h.URL+`
retry 1ms
}
notify smtp {
	host 127.0.0.1:1
	from a@example.com
	to b@example.com
	tls none
}
`, directive)
	s.post(`{"message":"fails twice"}`)
	h.await(t, 2)
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(s.api("/webhooks/app").Body, `"failing"`); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the webhook is not failing")
		}
	}
	for until := time.Now().Add(300 * time.Millisecond); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		if metrics := s.metrics(); !strings.Contains(metrics, `userhero_queue_oldest_due_age_seconds{webhook="_notices"} 0`+"\n") {
			t.Fatalf("a notice counts as late: %s", grep(metrics, "oldest_due"))
		}
	}
}
