package relay

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
	"github.com/userhero/relay/relay/deliver"
)

// projectSite is a relay whose receivers answer 200, on fake time.
type projectSite struct {
	*Relay
	t    *testing.T
	rs   *receivers
	read int // requests that came has returned
}

func newProjectSite(t *testing.T, q queue.Queue, webhooks ...WebhookConfig) *projectSite {
	t.Helper()
	rs := &receivers{answer: always(200)}
	client, err := deliver.NewClient(deliver.Egress{}, deliver.Options{Transport: rs})
	if err != nil {
		t.Fatal(err)
	}
	s := &projectSite{Relay: New(Options{Queue: q, client: client}), t: t, rs: rs}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop(context.Background()) })
	s.configure(webhooks...)
	return s
}

func (s *projectSite) configure(webhooks ...WebhookConfig) {
	s.t.Helper()
	if _, err := s.Attach(Config{Webhooks: webhooks}); err != nil {
		s.t.Fatal(err)
	}
}

// accept takes feedback of a project in and returns its event.
func (s *projectSite) accept(project, id string) queue.EventID {
	s.t.Helper()
	receipt, err := s.Accept(s.t.Context(), queue.Entry{
		Type: string(event.Created), Feedback: queue.FeedbackID{Project: project, ID: id}, Body: []byte(`{"event":"feedback.created","data":{"message":"` + id + `"}}`),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return receipt.Event.ID
}

// came returns the hosts that requests came to since the last call.
func (s *projectSite) came() string {
	synctest.Wait()
	all := s.rs.all()
	var hosts []string
	for _, request := range all[s.read:] {
		hosts = append(hosts, strings.TrimSuffix(request.host, ".example"))
	}
	s.read = len(all)
	slices.Sort(hosts)
	return strings.Join(hosts, " ")
}

func toProjects(name string, projects ...string) WebhookConfig {
	return WebhookConfig{Name: name, URL: "https://" + name + ".example/", Projects: projects}
}

// TestWebhookGetsFeedbackOfItsProjectsOnly: feedback goes to the webhooks that name its
// project, and to those that name none. Feedback without a project goes only to the
// latter.
func TestWebhookGetsFeedbackOfItsProjectsOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newProjectSite(t, memqueue.New(memqueue.Options{}), toProjects("all"), toProjects("one", "a"), toProjects("two", "a", "b"))
		for _, c := range []struct{ project, want string }{
			{"a", "all one two"}, {"b", "all two"}, {"c", "all"}, {"A", "all"}, {"", "all"},
		} {
			s.accept(c.project, "fb_"+c.project)
			if got := s.came(); got != c.want {
				t.Errorf("feedback of project %q goes to %q, want %q", c.project, got, c.want)
			}
		}
	})
}

// TestNarrowedWebhookGetsNothingElseAgain: after a webhook was limited to some projects,
// no request of a person sends it feedback of others.
func TestNarrowedWebhookGetsNothingElseAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newProjectSite(t, memqueue.New(memqueue.Options{}), toProjects("hook"))
		s.rs.answer = always(400)
		began := time.Now()
		s.configure(WebhookConfig{Name: "hook", URL: "https://hook.example/", Retry: []time.Duration{}})
		other, own := s.accept("b", "fb_b"), s.accept("a", "fb_a")
		if got := s.came(); got == "" {
			t.Fatal("no attempt was made")
		}
		time.Sleep(time.Hour) // the breaker's probe is due
		synctest.Wait()
		s.rs.answer = always(200)
		s.configure(toProjects("hook", "a"))
		w, _ := s.Webhook("hook")
		if err := s.Redeliver(t.Context(), queue.DeliveryID{Event: other, Webhook: w.ID}, "ada"); !errors.Is(err, queue.ErrConflict) {
			t.Errorf("another project's delivery was queued again: %v", err)
		}
		n, err := s.Recover(t.Context(), "hook", Recovery{Failed: true, Missed: true, Since: began.Add(-time.Minute)}, "ada")
		if err != nil || n != 1 {
			t.Errorf("%d deliveries were queued again (%v), want 1", n, err)
		}
		synctest.Wait()
		if d, err := s.Queue().Delivery(t.Context(), queue.DeliveryID{Event: own, Webhook: w.ID}); err != nil || d.State != queue.Delivered {
			t.Errorf("its own project's delivery is %v (%v), want delivered", d.State, err)
		}
	})
}

// TestWaitingDeliveryDoesNotFollowAWebhookToOtherProjects: what waits for a webhook when
// it gets other projects is not sent: its new owner may have another URL. It ends as
// failed, and the webhook's state does not change.
func TestWaitingDeliveryDoesNotFollowAWebhookToOtherProjects(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newProjectSite(t, memqueue.New(memqueue.Options{}), toProjects("hook", "a", "b"))
		s.rs.answer = always(500)
		other, own := s.accept("b", "fb_b"), s.accept("a", "fb_a")
		if got := s.came(); got != "hook hook" {
			t.Fatalf("requests came to %q", got)
		}
		s.rs.answer = always(200)
		s.configure(toProjects("hook", "a"))
		time.Sleep(2 * time.Minute)
		if got := s.came(); got != "hook" {
			t.Errorf("requests came to %q, want one", got)
		}
		w, _ := s.Webhook("hook")
		if d, err := s.Queue().Delivery(t.Context(), queue.DeliveryID{Event: own, Webhook: w.ID}); err != nil || d.State != queue.Delivered {
			t.Errorf("its own project's delivery is %v (%v), want delivered", d.State, err)
		}
		id := queue.DeliveryID{Event: other, Webhook: w.ID}
		d, err := s.Queue().Delivery(t.Context(), id)
		attempts, _ := s.Queue().Attempts(t.Context(), id)
		if err != nil || d.State != queue.Failed || len(attempts) != 2 || attempts[1].ErrorClass != "project" {
			t.Errorf("the other project's delivery is %v (%v) after %+v, want failed with the class project", d.State, err, attempts)
		}
		if w.State != Active {
			t.Errorf("the webhook is %s: %s", w.State, w.Reason)
		}
		s.accept("a", "fb_later")
		if got := s.came(); got != "hook" {
			t.Errorf("after that, requests came to %q, want one", got)
		}
	})
}

// TestProjectsAreInTheRecord: a webhook that was added through the API keeps its
// projects over a restart. A record of a version without projects means all.
func TestProjectsAreInTheRecord(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := memqueue.New(memqueue.Options{})
		s := newProjectSite(t, q)
		if err := s.Add(t.Context(), toProjects("added", "a"), "ada"); err != nil {
			t.Fatal(err)
		}
		old, err := json.Marshal(map[string]any{"source": FromAPI, "state": Active, "config": map[string]any{"url": "https://old.example/"}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := q.PutWebhook(t.Context(), queue.Webhook{Name: "old", Data: old}); err != nil {
			t.Fatal(err)
		}
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		s = newProjectSite(t, q)
		s.accept("b", "fb_b")
		if got := s.came(); got != "old" {
			t.Errorf("another project's feedback goes to %q, want old", got)
		}
		s.accept("a", "fb_a")
		if got := s.came(); got != "added old" {
			t.Errorf("its project's feedback goes to %q, want added old", got)
		}
	})
}

func TestProjectsAreChecked(t *testing.T) {
	t.Parallel()
	for _, projects := range [][]string{{""}, {"a", ""}, {"\xff"}} {
		var wrong *deliver.SettingError
		if err := toProjects("hook", projects...).Validate(); !errors.As(err, &wrong) || wrong.Setting != "projects" {
			t.Errorf("projects %q: %v, want an error of the setting projects", projects, err)
		}
	}
}
