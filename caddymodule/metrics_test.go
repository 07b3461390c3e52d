package caddymodule

import (
	"fmt"
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

// TestClientsMakeNoProjectLabels: projects that the Caddyfile names are counted by name,
// from the start. What clients name besides is added up.
func TestClientsMakeNoProjectLabels(t *testing.T) {
	s := newSite(t)
	s.load("webhook w {\nurl http://127.0.0.1:9/\nprojects proj_w\n}\n", `
userhero /a {
	project proj_a
}
userhero /host {
	project {http.request.header.Project}
}
userhero /any
handle_path /console/* {
	userhero_console {
		no_auth
		project proj_c
	}
}`)
	s.submit("/a", `{"message":"m"}`).is(t, "its project", 202, "")
	s.submit("/any", `{"message":"m"}`).is(t, "no project", 202, "")
	s.submit("/any", `{"message":"m","projectId":"proj_w"}`).is(t, "a named project", 202, "")
	for i := range 10 {
		s.submit("/any", fmt.Sprintf(`{"message":"m","projectId":"made-%d"}`, i)).is(t, "a client's project", 202, "")
		s.submit("/host", `{"message":"m"}`, "Project", fmt.Sprintf("host-%d", i)).is(t, "a request's project", 202, "")
	}
	got := grep(s.metrics(), "userhero_project_events_accepted_total{")
	want := ""
	for _, c := range []string{"_none\"} 1", "_other\"} 20", "proj_a\"} 1", "proj_c\"} 0", "proj_w\"} 1"} {
		want += `userhero_project_events_accepted_total{project="` + c + "\n"
	}
	if got != want {
		t.Errorf("the metrics are\n%swant\n%s", got, want)
	}
}
