package relay

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
	"github.com/userhero/relay/relay/notify"
)

// operationalRequests returns the operational events that a host got.
func operationalRequests(rs *receivers, host string) (got []string) {
	for _, seen := range rs.all() {
		if seen.host == host && strings.HasPrefix(canonicalHeader(seen.header).Get("X-Userhero-Event"), "webhook.") {
			got = append(got, seen.body)
		}
	}
	return got
}

var everyOperational = event.OperationalTypes()

func TestSubscribersHearOfOtherWebhooksOfTheirProjects(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var status sync.Map // by host; others answer 200
		rs := &receivers{answer: func(r request) (int, http.Header) {
			if s, ok := status.Load(r.host); ok {
				return s.(int), nil
			}
			return 200, nil
		}}
		subscriber := func(name string, projects ...string) WebhookConfig {
			return WebhookConfig{Name: name, URL: "https://" + name + ".example/", Events: everyOperational, Projects: projects}
		}
		both := subscriber("both")
		both.Events = append([]event.Type{event.Created}, both.Events...)
		chat := subscriber("slack", "a")
		chat.Body = "slack"
		own := subscriber("own")
		own.Body = `{"text": data.message}`
		r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, Config{
			ConsoleURL: "https://feedback.example.com/relay", Retry: []time.Duration{time.Second},
			Webhooks: []WebhookConfig{
				{Name: "crm", URL: "https://crm.example/hook?token=canary", Projects: []string{"a"}},
				{Name: "plain", URL: "https://plain.example/"},
				subscriber("all"), both, chat, own, subscriber("ab", "a", "b"), subscriber("b", "b"),
			},
		})
		defer stop()
		send := func(project, id string) {
			t.Helper()
			if _, err := r.Accept(t.Context(), queue.Entry{
				Type: string(event.Created), Feedback: queue.FeedbackID{Project: project, ID: id}, Body: []byte(`{"event":"feedback.created","data":{"message":"x"}}`),
			}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
		}
		status.Store("crm.example", 500)
		began := time.Now()
		send("a", "fb_1")
		crm, _ := r.Webhook("crm")
		want := fmt.Sprintf(`{"event":"webhook.failing","timestamp":"%s","data":{"webhook":"crm","url":"https://crm.example/hook","since":"%[1]s",`+
			`"reason":"answered 500 Internal Server Error","consoleUrl":"https://feedback.example.com/relay/webhooks/crm","webhookId":%d,"projects":["a"]}}`,
			began.Add(time.Second).UTC().Format("2006-01-02T15:04:05Z"), crm.ID)
		for _, host := range []string{"all.example", "both.example", "ab.example", "own.example"} {
			if got := operationalRequests(rs, host); len(got) != 1 || got[0] != want {
				t.Errorf("%s got %q, want %s", host, got, want)
			}
		}
		if got := operationalRequests(rs, "slack.example"); len(got) != 1 || !strings.Contains(got[0], `Webhook \"crm\" is failing`) {
			t.Errorf("Slack got %q", got)
		}
		for _, host := range []string{"plain.example", "crm.example", "b.example"} {
			if got := operationalRequests(rs, host); len(got) != 0 {
				t.Errorf("%s got %q", host, got)
			}
		}
		status.Store("crm.example", 200)
		time.Sleep(time.Minute)
		send("a", "fb_2")
		if got := operationalRequests(rs, "all.example"); len(got) != 2 || !strings.HasPrefix(got[1], `{"event":"webhook.recovered"`) {
			t.Errorf("after the recovery it got %q", got)
		}
		// A webhook of all projects is only for those who may see all projects; a
		// subscriber never hears of itself.
		status.Store("plain.example", 410)
		send("", "fb_3")
		status.Store("both.example", 410)
		send("", "fb_4")
		for host, n := range map[string]int{"all.example": 4, "own.example": 4, "both.example": 3, "ab.example": 2, "slack.example": 2, "b.example": 0} {
			if got := operationalRequests(rs, host); len(got) != n {
				t.Errorf("after two were disabled, %s has %d operational events, want %d: %q", host, len(got), n, got)
			}
		}
		for _, got := range operationalRequests(rs, "both.example") {
			if strings.Contains(got, `"webhook":"both"`) {
				t.Errorf("a webhook heard of itself: %s", got)
			}
		}
		// What a subscriber did not get cannot be brought to it.
		b, _ := r.Webhook("b")
		page, err := r.Queue().Events(t.Context(), queue.EventQuery{Type: string(event.WebhookFailing)})
		if err != nil || len(page.Items) != 1 {
			t.Fatalf("the store lists %d events webhook.failing, %v", len(page.Items), err)
		}
		if err := r.Redeliver(t.Context(), queue.DeliveryID{Event: page.Items[0].ID, Webhook: b.ID}, "ada"); err == nil {
			t.Error("it was redelivered to a webhook of another project")
		}
		if n, err := r.Recover(t.Context(), "b", Recovery{Missed: true, Failed: true, Since: began.Add(-time.Hour)}, "ada"); n != 0 || err != nil {
			t.Errorf("%d missed events were recovered, %v", n, err)
		}
		all, _ := r.Webhook("all")
		if err := r.Redeliver(t.Context(), queue.DeliveryID{Event: page.Items[0].ID, Webhook: all.ID}, "ada"); err != nil {
			t.Errorf("a subscriber gets it again: %v", err)
		}
	})
}

// TestOperationalEventsAreDampedAndHeld: a webhook that flaps is reported once an hour,
// with its state then; and while all subscribers are paused, the last state waits.
func TestOperationalEventsAreDampedAndHeld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var fails atomic.Bool
		rs := &receivers{answer: func(r request) (int, http.Header) {
			if fails.Load() && r.host == "crm.example" {
				return 500, nil
			}
			return 200, nil
		}}
		r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, Config{
			Webhooks: []WebhookConfig{
				{Name: "crm", URL: "https://crm.example/", Retry: []time.Duration{}},
				{Name: "chat", URL: "https://chat.example/", Events: everyOperational},
			},
		})
		defer stop()
		n := 0
		flap := func() {
			n++
			fails.Store(true)
			accept(t, r, fmt.Sprintf("fb_%d", n))
			time.Sleep(time.Minute)
			fails.Store(false)
			time.Sleep(6 * time.Minute) // for the next probe
			n++
			accept(t, r, fmt.Sprintf("fb_%d", n))
			time.Sleep(time.Minute)
		}
		for range 6 {
			flap()
		}
		kinds := func() (k []string) {
			for _, body := range operationalRequests(rs, "chat.example") {
				k = append(k, body[len(`{"event":"webhook.`):strings.Index(body, `",`)])
			}
			return k
		}
		if got := kinds(); !slices.Equal(got, []string{"failing", "recovered"}) {
			t.Errorf("within the hour came %q", got)
		}
		time.Sleep(2 * time.Hour)
		if got := kinds(); !slices.Equal(got, []string{"failing", "recovered", "recovered"}) {
			t.Errorf("after the hour came %q", got)
		}
		time.Sleep(3 * time.Hour)
		if err := r.Disable(t.Context(), "chat", "ada"); err != nil {
			t.Fatal(err)
		}
		fails.Store(true)
		n++
		accept(t, r, fmt.Sprintf("fb_%d", n))
		time.Sleep(3 * time.Hour)
		before := len(kinds())
		if err := r.Enable(t.Context(), "chat", "ada"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		if got := kinds(); len(got) != before+1 || got[before] != "failing" {
			t.Errorf("when it can take them again, it has %q", got)
		}
	})
}

// TestWaitingOperationalEventStaysWithItsProjects: it waits for a webhook that gets other
// projects and another URL. It is not sent there, whatever has become of the webhook that
// it is about, and whoever has its name now. Webhooks of its projects, and those that name
// no projects, still get it.
func TestWaitingOperationalEventStaysWithItsProjects(t *testing.T) {
	t.Parallel()
	rename := func(t *testing.T, r *Relay) error {
		t.Helper()
		return r.Change(t.Context(), "subject", func(c *WebhookConfig) error { c.Name = "other"; return nil }, "bob")
	}
	for name, leaves := range map[string]func(*testing.T, *Relay) error{
		"deleted": func(t *testing.T, r *Relay) error {
			t.Helper()
			_, err := r.Delete(t.Context(), "subject", "bob")
			return err
		},
		"renamed": rename,
		"renamed, and its name is another's": func(t *testing.T, r *Relay) error {
			t.Helper()
			if err := rename(t, r); err != nil {
				return err
			}
			return r.Add(t.Context(), WebhookConfig{Name: "subject", URL: "https://new.example/", Projects: []string{"a"}}, "ann")
		},
		"moved": func(t *testing.T, r *Relay) error {
			t.Helper()
			return r.Change(t.Context(), "subject", func(c *WebhookConfig) error { c.Projects = []string{"a"}; return nil }, "admin")
		},
		"stays": func(*testing.T, *Relay) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var up atomic.Bool
				rs := &receivers{answer: func(r request) (int, http.Header) {
					if r.host == "subject.example" || !up.Load() {
						return 500, nil
					}
					return 200, nil
				}}
				r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, Config{Retry: []time.Duration{time.Hour}})
				defer stop()
				for _, c := range []WebhookConfig{
					{Name: "subject", URL: "https://subject.example/", Projects: []string{"b"}, Retry: []time.Duration{}},
					{Name: "chat", URL: "https://b.example/", Projects: []string{"a", "b"}, Events: everyOperational},
					{Name: "team", URL: "https://team.example/", Projects: []string{"b"}, Events: everyOperational},
					{Name: "all", URL: "https://all.example/", Events: everyOperational},
				} {
					if err := r.Add(t.Context(), c, "ann"); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := r.Accept(t.Context(), queue.Entry{Type: string(event.Created), Feedback: queue.FeedbackID{Project: "b", ID: "fb"}, Body: []byte(Sample)}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Minute) // the first attempts have failed
				if before := operationalRequests(rs, "b.example"); len(before) != 1 {
					t.Fatalf("the subscriber was sent %q, want one attempt", before)
				}
				if err := leaves(t, r); err != nil {
					t.Fatal(err)
				}
				if err := r.Change(t.Context(), "chat", func(c *WebhookConfig) error {
					c.URL, c.Projects = "https://a.example/", []string{"a"}
					return nil
				}, "ann"); err != nil {
					t.Fatal(err)
				}
				up.Store(true)
				time.Sleep(3 * time.Hour)
				for _, host := range []string{"team.example", "all.example"} {
					if got := operationalRequests(rs, host); len(got) != 2 || !strings.Contains(got[1], `"webhook":"subject"`) {
						t.Errorf("%s was sent %q, want the retry", host, got)
					}
				}
				chat, _ := r.Webhook("chat")
				page, err := r.Queue().Events(t.Context(), queue.EventQuery{Type: string(event.WebhookFailing)})
				if err != nil || len(page.Items) != 1 {
					t.Fatalf("the store lists %d events webhook.failing, %v", len(page.Items), err)
				}
				if err := r.Redeliver(t.Context(), queue.DeliveryID{Event: page.Items[0].ID, Webhook: chat.ID}, "ada"); !errors.Is(err, queue.ErrConflict) {
					t.Errorf("it was queued again for the webhook of project a: %v", err)
				}
				if n, err := r.Recover(t.Context(), "chat", Recovery{Failed: true, Waiting: true}, "ada"); n != 0 || err != nil {
					t.Errorf("%d were recovered for the webhook of project a, %v", n, err)
				}
				synctest.Wait()
				if got := operationalRequests(rs, "a.example"); len(got) != 0 {
					t.Errorf("the webhook of project a was sent %q", got)
				}
			})
		})
	}
}

// TestNoticesAreAboutAWebhookNotAName: a webhook fails, and is renamed before its notice
// goes out, and another webhook gets its name and fails too. Others are deleted, or get other
// projects, owners and names. Each message is about the webhook that failed, by its present
// name if it is still its owners', and goes to those whom it named when it failed. A restart,
// which posts the last notices again, changes nothing.
func TestNoticesAreAboutAWebhookNotAName(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q, rs, l := memqueue.New(memqueue.Options{}), &receivers{answer: always(500)}, &owners{}
		c := Config{Notifiers: []notify.Notifier{l}, Retry: []time.Duration{}, ConsoleURL: "https://feedback.example.com/relay", GroupNotices: 10 * time.Minute}
		r, stop := startOn(t, q, rs, c)
		fails := func(project string) {
			t.Helper()
			if _, err := r.Accept(t.Context(), queue.Entry{
				Type: string(event.Created), Feedback: queue.FeedbackID{Project: project, ID: "fb"}, Body: []byte(Sample),
			}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		add := func(name, project, owner string) {
			t.Helper()
			if err := r.Add(t.Context(), WebhookConfig{Name: name, URL: "https://" + project + ".example/", Projects: []string{project}, Notify: []string{owner}}, "admin"); err != nil {
				t.Fatal(err)
			}
		}
		change := func(name string, change func(c *WebhookConfig)) {
			t.Helper()
			if err := r.Change(t.Context(), name, func(c *WebhookConfig) error { change(c); return nil }, "admin"); err != nil {
				t.Fatal(err)
			}
		}
		add("x", "b", "bob@example.com")
		add("gone", "d", "dan@example.com")
		add("moved", "e", "eve@example.com")
		fails("b")
		fails("d")
		fails("e")
		change("x", func(c *WebhookConfig) { c.Name = "y" })
		add("x", "a", "ann@example.com")
		fails("a")
		change("moved", func(c *WebhookConfig) {
			c.Name, c.Projects, c.Notify, c.URL = "of-c", []string{"c"}, []string{"cy@example.com"}, "https://c.example/"
		})
		if _, err := r.Delete(t.Context(), "gone", "admin"); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			stop()
			r, stop = startOn(t, q, rs, c)
			time.Sleep(time.Hour)
		}
		defer stop()
		got := map[string][]string{}
		for _, message := range l.all() {
			for _, n := range message {
				got[n.To] = append(got[n.To], n.Webhook+" "+n.URL+" "+n.Console)
			}
			slices.Sort(got[message[0].To])
		}
		const console = " https://feedback.example.com/relay"
		x, y := "x https://a.example/"+console, "y https://b.example/"+console
		gone, moved := "gone https://d.example/ ", "moved https://e.example/ " // without a link
		for to, want := range map[string][]string{
			"": {gone, moved, x, y}, "ann@example.com": {x}, "bob@example.com": {y}, "dan@example.com": {gone}, "eve@example.com": {moved}, "cy@example.com": nil,
		} {
			if !slices.Equal(got[to], want) {
				t.Errorf("%q reads of %q, want %q", to, got[to], want)
			}
		}
		page, err := r.Activities(t.Context(), 100, "")
		if err != nil {
			t.Fatal(err)
		}
		projects := map[string]string{}
		for _, a := range page.Items {
			if a.What == "notice sent" {
				projects[a.Webhook] = strings.Join(a.Projects, " ")
			}
		}
		if want := map[string]string{"x": "a", "y": "b", "gone": "d", "moved": "e"}; !maps.Equal(projects, want) {
			t.Errorf("the activities about notices belong to %v, want %v", projects, want)
		}
	})
}

// owners is a notifier that can send to any address.
type owners struct{ letters }

func (*owners) Reaches(address string) bool { return address == "ops@example.com" }

// TestOwnersReadOfTheirWebhooksOnly: everybody named at a webhook gets a message about
// that webhook alone, however many fail together, and those whom the notifier names get
// one about all.
func TestOwnersReadOfTheirWebhooksOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rs := &receivers{answer: always(500)}
		l, second := &owners{}, &letters{}
		r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, Config{
			Notifiers: []notify.Notifier{second, l}, Retry: []time.Duration{},
			Webhooks: []WebhookConfig{
				{Name: "a1", URL: "https://a1.example/", Notify: []string{"ada@example.com", "ops@example.com"}},
				{Name: "a2", URL: "https://a2.example/", Notify: []string{"ada@example.com"}},
				{Name: "b", URL: "https://b.example/", Notify: []string{"bob@example.com"}},
				{Name: "nobody", URL: "https://nobody.example/"},
			},
		})
		defer stop()
		accept(t, r, "fb_1")
		time.Sleep(10 * time.Minute)
		got := map[string][]string{}
		for _, message := range l.all() {
			if got[message[0].To] != nil {
				t.Errorf("a second message to %q: %+v", message[0].To, message)
			}
			for _, n := range message {
				if n.To != message[0].To {
					t.Errorf("one message is to %q and to %q", n.To, message[0].To)
				}
				got[n.To] = append(got[n.To], n.Webhook)
			}
			slices.Sort(got[message[0].To])
		}
		want := map[string]string{"": "[a1 a2 b nobody]", "ada@example.com": "[a1 a2]", "bob@example.com": "[b]"}
		for to, webhooks := range want {
			if fmt.Sprint(got[to]) != webhooks {
				t.Errorf("%q reads of %v, want %s", to, got[to], webhooks)
			}
		}
		if len(got) != len(want) {
			t.Errorf("messages went to %v", got)
		}
		if sent := second.all(); len(sent) != 1 || len(sent[0]) != 4 {
			t.Errorf("the notifier that cannot send to owners got %+v", sent)
		}
		if stats := r.Stats(); stats.Events != 1 {
			t.Errorf("%d events are counted, want the one of feedback", stats.Events)
		}
	})
}

func TestWrongAddressesOfOwnersAreRefused(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"", "ada", "ada@example.com\r\nBcc: eve@example.com", "a b@example.com, c@example.com"} {
		if err := (WebhookConfig{Name: "w", URL: "https://w.example/", Notify: []string{address}}).Validate(); err == nil || !strings.Contains(err.Error(), "notify: ") {
			t.Errorf("%q: %v", address, err)
		}
	}
}
