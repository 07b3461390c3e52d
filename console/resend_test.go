package console_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/console/scope"
	"github.com/userhero/relay/relay"
)

// failedMany brings so many deliveries to an end without success.
func (s *stage) failedMany(n int) {
	s.t.Helper()
	s.add(relay.WebhookConfig{Retry: []time.Duration{}})
	s.status.Store(500)
	for i := range n {
		s.accept(fmt.Sprintf("fb_m%d", i), `"fails"`)
	}
	// A failing webhook is probed with one delivery at a time, so a person hurries them.
	s.waitFor("the first fails", func(w relay.WebhookStatus) bool { return w.State == relay.Failing })
	s.waitFor("all fail", func(w relay.WebhookStatus) bool {
		if w.Counts.Failed < int64(n) {
			_ = s.relay.Enable(s.t.Context(), "crm", "ada") // closes the breaker
		}
		return w.Counts.Failed == int64(n)
	})
}

// resend asks for all deliveries that failed, and begins to send them again.
func (s *stage) resend() {
	s.t.Helper()
	s.open("/events?webhook=crm&state=failed")
	s.says("Send the chosen again", "Send all that match again")
	s.open("/resend/new?query=" + url.QueryEscape("webhook=crm&state=failed"))
}

// reload opens the present page again until it says something.
func (s *stage) reload(want string) {
	s.t.Helper()
	s.until(strings.TrimPrefix(s.at.RequestURI(), mount), want)
}

// TestManyAreSentAgain: they are counted first, go out a few at a time with progress,
// wait for a webhook that is paused, and what has not gone out can be left as it is. Each
// sentence is held against the state.
func TestManyAreSentAgain(t *testing.T) {
	t.Parallel()
	const many = 45 // more than go out at once

	t.Run("done", func(t *testing.T) {
		t.Parallel()
		s := newStage(t)
		s.failedMany(many)
		s.status.Store(200)
		s.resend()
		s.says("Send 45 deliveries again?", "45 failed.")
		if got := s.crm().Counts; got.Failed != many {
			t.Errorf("counting changed something: %+v", got)
		}
		s.submit("/resend", nil)
		s.reload("Done: 45 deliveries were sent again. 45 delivered, 0 failed again.")
		if got := s.crm().Counts; got.Delivered != many || got.Failed != 0 {
			t.Errorf("after that the webhook has %+v", got)
		}
		s.open("/activity")
		s.says("Deliveries queued again crm 45 by you")
		s.open("/resend/new?query=" + url.QueryEscape("webhook=crm&state=failed"))
		s.says("Nothing would be sent again.")
	})
	t.Run("failing again", func(t *testing.T) {
		t.Parallel()
		s := newStage(t)
		s.failedMany(2)
		s.resend()
		s.submit("/resend", nil)
		s.reload("Done: 2 deliveries were sent again. 0 delivered, 2 failed again.")
		if got := s.crm(); got.State != relay.Failing || got.Counts.Failed != 2 || got.Counts.Delivered != 0 {
			t.Errorf("after that the webhook is %+v", got)
		}
	})
	t.Run("stopped", func(t *testing.T) {
		t.Parallel()
		s := newStage(t)
		s.failedMany(many)
		if err := s.relay.Disable(t.Context(), "crm", "ada"); err != nil {
			t.Fatal(err)
		}
		s.status.Store(200)
		s.resend()
		s.submit("/resend", nil)
		s.reload("It waits: crm is paused.")
		s.says("Sending again: 0 of 45 sent.", "45 to go")
		at := strings.TrimPrefix(s.at.RequestURI(), mount)
		s.open("/webhooks")
		s.says("Sending again: 0 of 45")
		s.open(at)
		s.submit("/stop", nil)
		s.reload("Stopped. 0 of 45 sent; 45 stayed as they were.")
		if got := s.crm().Counts; got.Failed != many || got.Held != 0 {
			t.Errorf("what was left is not as it was: %+v", got)
		}
		s.open("/webhooks")
		if strings.Contains(s.text(), "Sending again") {
			t.Error("what was stopped still runs")
		}
	})
	t.Run("chosen", func(t *testing.T) {
		t.Parallel()
		s := newStage(t)
		s.failedMany(3)
		s.status.Store(200)
		s.open("/events?state=failed")
		chosen := strings.Split(s.page, `name="delivery" value="`)
		query := url.Values{"query": {"state=failed"}}
		for _, part := range chosen[1:3] {
			id, _, _ := strings.Cut(part, `"`)
			query.Add("delivery", id)
		}
		s.open("/resend/new?" + query.Encode())
		s.says("Send 2 deliveries again?")
		s.submit("/resend", nil)
		s.reload("Done: 2 deliveries were sent again.")
		if got := s.crm().Counts; got.Delivered != 2 || got.Failed != 1 {
			t.Errorf("after that the webhook has %+v", got)
		}
	})
	t.Run("another has its name by then", func(t *testing.T) {
		t.Parallel()
		s := newStage(t)
		s.failedMany(2)
		s.status.Store(0)
		s.resend()
		s.submit("/resend", nil)
		s.reload("Sending again: 0 of 2 sent.")
		s.waitFor("the first is under way", func(relay.WebhookStatus) bool { return s.requests.Load() > 2 })
		if err := s.relay.Change(t.Context(), "crm", func(c *relay.WebhookConfig) error { c.Name = "old"; return nil }, "admin"); err != nil {
			t.Fatal(err)
		}
		if err := s.relay.Add(t.Context(), relay.WebhookConfig{Name: "crm", URL: s.url, Projects: []string{"a"}}, "admin"); err != nil {
			t.Fatal(err)
		}
		close(s.released)
		s.reload("Done: 2 deliveries were sent again.")
		team := scope.New(s.relay, scope.Scope{Projects: []string{"a"}})
		for _, view := range []*scope.View{team, scope.New(s.relay, scope.Scope{})} {
			lines, err := view.Activities(t.Context(), 100, "")
			if err != nil {
				t.Fatal(err)
			}
			has := slices.ContainsFunc(lines.Items, func(a relay.Activity) bool { return a.What == "deliveries requeued" })
			if has == (view == team) {
				t.Errorf("the activity of the projects %v is %+v", view.Projects(), lines.Items)
			}
		}
	})
	t.Run("wrong", func(t *testing.T) {
		t.Parallel()
		s := newStage(t)
		s.send(http.MethodGet, &url.URL{Path: mount + "/resend/none"}, nil, http.StatusNotFound)
		s.send(http.MethodGet, &url.URL{Path: mount + "/resend/new", RawQuery: "delivery=x"}, nil, http.StatusNotFound)
		s.send(http.MethodGet, &url.URL{Path: mount + "/resend/new", RawQuery: "query=webhook%3Dnone"}, nil, http.StatusNotFound)
	})
}
