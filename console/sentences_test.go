package console_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/signature"
)

// stage is a console with a webhook crm, whose receiver does what a scenario says.
type stage struct {
	*visit
	status   atomic.Int64 // the receiver's answer; 0 hangs until the test ends
	pause    atomic.Bool  // it asks for a pause of half an hour
	requests atomic.Int64
	before   int64 // requests before the action
	url      string
	ended    chan struct{}
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{visit: newVisit(t, relay.Config{}), ended: make(chan struct{})}
	s.status.Store(200)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		if s.pause.Load() {
			w.Header().Set("Retry-After", "1800")
		}
		if status := s.status.Load(); status != 0 {
			w.WriteHeader(int(status))
			return
		}
		select {
		case <-s.ended:
		case <-r.Context().Done():
		}
	}))
	s.url = hook.URL
	t.Cleanup(hook.Close)
	t.Cleanup(func() { close(s.ended) })
	return s
}

// add makes the webhook, with a ladder of one long rung.
func (s *stage) add(c relay.WebhookConfig) {
	s.t.Helper()
	if c.Name = "crm"; c.URL == "" {
		c.URL = s.url
	}
	if c.Retry == nil {
		c.Retry = []time.Duration{time.Hour}
	}
	if err := s.relay.Add(s.t.Context(), c, "ada"); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) crm() relay.WebhookStatus {
	w, _ := s.relay.Webhook("crm")
	return w
}

// waitFor waits until the webhook is as a scenario needs it.
func (s *stage) waitFor(what string, holds func(relay.WebhookStatus) bool) {
	s.t.Helper()
	for end := time.Now().Add(30 * time.Second); !holds(s.crm()); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("not within 30 s: %s; the webhook is %+v", what, s.crm())
		}
	}
}

// act does something on the webhook's page, by its form.
func (s *stage) act(form string, fields url.Values) {
	s.t.Helper()
	s.open("/webhooks/crm")
	if form == "/settings" || strings.HasPrefix(form, "/rotate") {
		s.open("/webhooks/crm/settings")
	}
	s.before = s.requests.Load()
	s.submit(form, fields)
}

// retrying brings deliveries onto the rung, and the receiver back.
func (s *stage) retrying(n int) {
	s.t.Helper()
	s.status.Store(503)
	for i := range n {
		s.accept(fmt.Sprintf("fb_r%d", i), `"waits"`)
	}
	s.waitFor("deliveries wait", func(w relay.WebhookStatus) bool { return w.Counts.Retrying == int64(n) })
	s.status.Store(200)
}

// pausing has the receiver ask for a pause; one delivery waits on the rung.
func (s *stage) pausing() {
	s.t.Helper()
	s.add(relay.WebhookConfig{})
	s.pause.Store(true)
	s.retrying(1)
	s.waitFor("it is held off", func(w relay.WebhookStatus) bool { return !w.HeldUntil.IsZero() })
}

// failing makes the webhook fail; its receiver stays away.
func (s *stage) failing() {
	s.t.Helper()
	s.status.Store(500)
	s.accept("fb_f", `"fails"`)
	s.waitFor("the webhook fails", func(w relay.WebhookStatus) bool { return w.State == relay.Failing && w.Counts.Failed == 1 })
}

// queues reports whether a new event gets a delivery.
func (s *stage) queues() bool {
	receipt, err := s.relay.Accept(s.t.Context(), relay.Acceptance{
		Type: event.Created, Feedback: queue.FeedbackID{ID: fmt.Sprint("fb_", time.Now().UnixNano())}, Body: []byte(`{"event":"feedback.created","data":{}}`),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	all, err := s.relay.Queue().EventDeliveries(s.t.Context(), receipt.Event.ID)
	if err != nil {
		s.t.Fatal(err)
	}
	return len(all) == 1
}

// TestSentencesAreTrue: every sentence that the console says after an action, with
// the state that it claims. Each scenario is held against all of them: its own is
// said, and whatever is said is true.
func TestSentencesAreTrue(t *testing.T) {
	t.Parallel()
	paused := func(w relay.WebhookStatus) bool { return w.State == relay.Disabled }
	sends := func(w relay.WebhookStatus) bool {
		return w.State == relay.Active && !w.Probing && w.HeldUntil.IsZero()
	}
	heldOff := func(s *stage) bool {
		return time.Until(s.crm().HeldUntil) > 29*time.Minute && s.requests.Load() == s.before
	}
	const number = `(\d+) `
	sentences := map[string]func(s *stage, n int64) bool{
		`Webhook crm added\. New events that match its settings are sent to it\.`: func(s *stage, _ int64) bool {
			return sends(s.crm()) && s.queues()
		},
		`Paused\. New events are not queued for crm; use Recover to send them after you resume\.`: func(s *stage, _ int64) bool {
			return paused(s.crm()) && strings.Contains(s.page, "Resume</button>") && !s.queues()
		},
		number + `waiting deliver(y is|ies are) held until then\.`: func(s *stage, n int64) bool { return paused(s.crm()) && s.crm().Counts.Held == n },
		`crm was not paused\. Nothing changed\.`:                   func(s *stage, _ int64) bool { return !paused(s.crm()) },
		`Resumed\. New events are sent to crm again\.`:             func(s *stage, _ int64) bool { return sends(s.crm()) && s.queues() },
		`Resumed\. New events are queued for crm again\.`:          func(s *stage, _ int64) bool { return heldOff(s) },
		` (\d+) events? w(as|ere) missed meanwhile\. Send what it missed`: func(s *stage, n int64) bool {
			s.open("/webhooks/crm/recover?span=" + url.QueryEscape(time.Now().Add(-time.Hour).Format(time.RFC3339)))
			return strings.Contains(s.text(), fmt.Sprintf("%d deliver", n)) && strings.Contains(s.text(), "would be sent again.")
		},
		`It missed no event\.`: func(s *stage, _ int64) bool {
			s.open("/webhooks/crm/recover?span=" + url.QueryEscape(time.Now().Add(-time.Hour).Format(time.RFC3339)))
			return strings.Contains(s.text(), "Nothing would be sent again.")
		},
		`Enabled\. New events are sent to crm again\.`:                                func(s *stage, _ int64) bool { return sends(s.crm()) && s.queues() },
		number + `deliver(y waits|ies wait) for the next retry`:                       func(s *stage, n int64) bool { return s.crm().Counts.Retrying == n },
		`Nothing changed: the settings are the same as before\.`:                      func(s *stage, _ int64) bool { return s.crm().Timeout == 30*time.Second },
		`Settings saved\. The next attempt uses them\.`:                               func(s *stage, _ int64) bool { return s.crm().Timeout == 5*time.Second && sends(s.crm()) },
		`Settings saved\. They are used when you resume crm\.`:                        func(s *stage, _ int64) bool { return s.crm().Timeout == 5*time.Second && paused(s.crm()) },
		`Queued again\. It is held until you resume crm\.`:                            func(s *stage, _ int64) bool { return paused(s.crm()) && s.crm().Counts.Held == 1 },
		`Queued again\. While crm does not answer, one delivery at a time is tried\.`: func(s *stage, _ int64) bool { return s.crm().Probing },
		`Queued again\. It will be sent to crm as soon as possible\.`: func(s *stage, _ int64) bool {
			s.waitFor("it goes out", func(w relay.WebhookStatus) bool { return w.Counts.Delivered == 1 })
			return sends(s.crm())
		},
		`Queued again\. It will be sent when the pause ends that crm asked for`: func(s *stage, _ int64) bool { return heldOff(s) },
		number + `deliver(y|ies) queued again\. They will be sent when the pause ends that crm asked for`: func(s *stage, n int64) bool {
			return heldOff(s) && s.crm().Counts.Pending == n
		},
		number + `held deliver(y is|ies are) sent when the pause ends that the receiver asked for`: func(s *stage, n int64) bool {
			return heldOff(s) && s.crm().Counts.Pending == n
		},
		`Nothing was queued: this delivery is being sent at the moment\.`: func(s *stage, _ int64) bool { return s.status.Load() == 0 && s.requests.Load() == 1 },
		number + `deliver(y|ies) queued again\. They are held until you resume crm\.`: func(s *stage, n int64) bool {
			return paused(s.crm()) && s.crm().Counts.Held == n
		},
		number + `deliver(y|ies) queued again\. While crm does not answer, one delivery at a time is tried\.`: func(s *stage, n int64) bool {
			return s.crm().Probing && s.requests.Load() <= s.before+1
		},
		number + `deliver(y|ies) queued again\. They are sent now: one at first, and faster as the receiver answers\.`: func(s *stage, n int64) bool {
			s.waitFor("they go out", func(w relay.WebhookStatus) bool { return w.Counts.Delivered == n })
			return sends(s.crm())
		},
		`Nothing was queued: no delivery waits for a retry\.`:             func(s *stage, _ int64) bool { return s.crm().Counts.Retrying == 0 },
		`Nothing was queued: nothing has failed\.`:                        func(s *stage, _ int64) bool { return s.crm().Counts.Failed == 0 },
		`Nothing was queued: nothing failed or was missed in that time\.`: func(s *stage, _ int64) bool { return s.crm().Counts.Failed == 0 },
		`Webhook crm deleted\. No delivery was waiting for it\.`:          func(s *stage, _ int64) bool { return s.crm().Name == "" },
		`Webhook crm deleted\. ` + number + `waiting deliver(y was|ies were) cancelled\.`: func(s *stage, n int64) bool {
			s.open("/events?state=failed")
			if got := strings.Count(s.text(), "Cancelled: the webhook was deleted"); int64(got) != n {
				s.t.Error(got, s.text())
			}
			return s.crm().Name == ""
		},
		`Secret set\. All requests are signed from now on\.`: func(s *stage, _ int64) bool { return s.crm().HasSecret && s.crm().PreviousUntil.IsZero() },
		`Secret changed\. The old secret also works for 24 hours\.`: func(s *stage, _ int64) bool {
			return time.Until(s.crm().PreviousUntil).Round(time.Hour) == 24*time.Hour
		},
		`Secret changed\. The old secret no longer works\.`:                 func(s *stage, _ int64) bool { return s.crm().HasSecret && s.crm().PreviousUntil.IsZero() },
		`Key set\. All requests have an asymmetric signature from now on\.`: func(s *stage, _ int64) bool { return len(s.crm().PublicKeys) == 1 },
		`Key changed\. The old key also signs for 24 hours\.`: func(s *stage, _ int64) bool {
			return len(s.crm().PublicKeys) == 2 && time.Until(s.crm().PreviousSigningUntil).Round(time.Hour) == 24*time.Hour
		},
		`Key changed\. The old key no longer signs\.`:                    func(s *stage, _ int64) bool { return len(s.crm().PublicKeys) == 1 },
		`Key removed\. Requests have no asymmetric signature any more\.`: func(s *stage, _ int64) bool { return len(s.crm().PublicKeys) == 0 },
		`It works: the receiver answered 200 OK`:                         func(s *stage, _ int64) bool { return s.status.Load() == 200 && s.requests.Load() == s.before+1 },
		`It does not work yet: `:                                         func(s *stage, _ int64) bool { return s.status.Load() != 200 || s.requests.Load() == s.before },
		`The sample event of the documentation was sent, with`:           func(s *stage, _ int64) bool { return s.requests.Load() == s.before+1 },
		`Nothing was sent: there was no connection to the receiver\.`:    func(s *stage, _ int64) bool { return s.requests.Load() == s.before },
		`There was no answer\. The receiver may have got the sample event or not\.`: func(s *stage, _ int64) bool {
			return s.status.Load() == 0
		},
	}
	oneFailed := func(s *stage) string {
		s.add(relay.WebhookConfig{Retry: []time.Duration{}})
		s.failing()
		s.open("/events?state=failed")
		return regexp.MustCompile(`dlv_\w+`).FindString(s.page)
	}
	scenarios := []struct {
		name string
		act  func(s *stage)
		says []string
	}{
		{"add", func(s *stage) {
			s.open("/add")
			s.submit("add", url.Values{"url": {s.url}, "name": {"crm"}, "go": {"secret"}})
			s.submit("add", url.Values{"go": {"test"}})
			s.submit("add", url.Values{"go": {"save"}})
		}, []string{"Webhook crm added."}},
		{"pause", func(s *stage) { s.add(relay.WebhookConfig{}); s.act("/pause", nil) }, []string{"Paused."}},
		{"pause with deliveries on the rung", func(s *stage) {
			s.add(relay.WebhookConfig{})
			s.retrying(2)
			s.act("/pause", nil)
		}, []string{"Paused.", "2 waiting deliveries are held"}},
		{"resume", func(s *stage) {
			s.add(relay.WebhookConfig{})
			s.act("/pause", nil)
			s.submit("/enable", nil)
		}, []string{"Resumed.", "It missed no event."}},
		{"resume after events were missed", func(s *stage) {
			s.add(relay.WebhookConfig{})
			s.act("/pause", nil)
			s.accept("fb_1", `"missed"`)
			s.accept("fb_2", `"missed"`)
			s.open("/webhooks/crm")
			s.submit("/enable", nil)
		}, []string{"Resumed.", "2 events were missed meanwhile. Send what it missed"}},
		{"resume with deliveries on the rung", func(s *stage) {
			s.add(relay.WebhookConfig{})
			s.retrying(1)
			s.act("/pause", nil)
			s.submit("/enable", nil)
		}, []string{"Resumed.", "1 delivery waits for the next retry"}},
		{"resume what somebody has resumed", func(s *stage) {
			s.add(relay.WebhookConfig{})
			s.act("/pause", nil)
			if err := s.relay.Enable(s.t.Context(), "crm", "bob"); err != nil {
				s.t.Fatal(err)
			}
			s.submit("/enable", nil)
		}, []string{"crm was not paused."}},
		{"enable after 410", func(s *stage) {
			s.add(relay.WebhookConfig{})
			s.status.Store(410)
			s.accept("fb_1", `"gone"`)
			s.waitFor("410 disables", paused)
			s.status.Store(200)
			s.act("/enable", nil)
		}, []string{"Enabled."}},
		{"save", func(s *stage) {
			s.add(relay.WebhookConfig{})
			s.act("/settings", url.Values{"timeout": {"5s"}})
		}, []string{"The next attempt uses them."}},
		{"save without a change", func(s *stage) {
			s.add(relay.WebhookConfig{Timeout: 30 * time.Second, Concurrency: 8, Events: []event.Type{}})
			s.act("/settings", nil)
		}, []string{"Nothing changed"}},
		{"save while paused", func(s *stage) {
			s.add(relay.WebhookConfig{})
			s.act("/pause", nil)
			s.act("/settings", url.Values{"timeout": {"5s"}})
		}, []string{"They are used when you resume crm."}},
		{"redeliver", func(s *stage) {
			id := oneFailed(s)
			s.status.Store(200)
			s.relay.Recover(s.t.Context(), "crm", relay.Recovery{Failed: true}, "ada") //nolint:errcheck // the wait shows it
			s.waitFor("it works again", func(w relay.WebhookStatus) bool { return w.Counts.Delivered == 1 && sends(w) })
			s.open("/events?q=" + id)
			s.submit("/redeliver", nil)
		}, []string{"as soon as possible."}},
		{"redeliver while failing", func(s *stage) {
			s.open("/events?q=" + oneFailed(s))
			s.submit("/redeliver", nil)
		}, []string{"Queued again. While crm does not answer"}},
		{"redeliver while paused", func(s *stage) {
			id := oneFailed(s)
			s.act("/pause", nil)
			s.open("/events?q=" + id)
			s.submit("/redeliver", nil)
		}, []string{"It is held until you resume crm."}},
		{"redeliver while the receiver wants a pause", func(s *stage) {
			s.pausing()
			s.open("/webhooks/crm")
			s.before = s.requests.Load()
			s.open("/events?q=" + regexp.MustCompile(`dlv_\w+`).FindString(s.page))
			s.submit("/redeliver", nil)
		}, []string{"It will be sent when the pause ends"}},
		{"send all that wait while the receiver wants a pause", func(s *stage) {
			s.pausing()
			s.before = s.requests.Load()
			s.send(http.MethodPost, &url.URL{Path: mount + "/webhooks/crm/recover"}, url.Values{"span": {"waiting"}}, http.StatusOK)
		}, []string{"1 delivery queued again. They will be sent when the pause ends"}},
		{"resume while the receiver wants a pause", func(s *stage) {
			s.pausing()
			s.accept("fb_2", `"comes meanwhile"`)
			s.act("/pause", nil)
			s.submit("/enable", nil)
		}, []string{"Resumed.", "1 held delivery is sent when the pause ends", "1 delivery waits for the next retry"}},
		{"redeliver what is under way", func(s *stage) {
			s.add(relay.WebhookConfig{})
			s.status.Store(0)
			s.accept("fb_1", `"hangs"`)
			s.waitFor("the attempt begins", func(relay.WebhookStatus) bool { return s.requests.Load() == 1 })
			s.open("/webhooks/crm")
			s.open("/events?q=" + regexp.MustCompile(`dlv_\w+`).FindString(s.page))
			s.submit("/redeliver", nil)
		}, []string{"this delivery is being sent at the moment."}},
		{"send all that wait", func(s *stage) {
			s.add(relay.WebhookConfig{})
			s.retrying(3)
			s.act("/recover", url.Values{"span": {"waiting"}})
		}, []string{"3 deliveries queued again. They are sent now"}},
		{"send all that wait, where none does", func(s *stage) {
			s.add(relay.WebhookConfig{})
			s.send(http.MethodPost, &url.URL{Path: mount + "/webhooks/crm/recover"}, url.Values{"span": {"waiting"}}, http.StatusOK)
		}, []string{"no delivery waits for a retry."}},
		{"recover while failing", func(s *stage) {
			oneFailed(s)
			s.open("/webhooks/crm/recover?span=failed")
			s.before = s.requests.Load()
			s.submit("/recover", nil)
		}, []string{"1 delivery queued again. While crm does not answer, one delivery at a time is tried."}},
		{"recover while paused", func(s *stage) {
			oneFailed(s)
			s.act("/pause", nil)
			s.open("/webhooks/crm/recover?span=failed")
			s.says("They are held until crm is active again.")
			s.submit("/recover", nil)
		}, []string{"1 delivery queued again. They are held until you resume crm."}},
		{"recover where nothing failed", func(s *stage) {
			s.add(relay.WebhookConfig{})
			s.send(http.MethodPost, &url.URL{Path: mount + "/webhooks/crm/recover"}, url.Values{"span": {"failed"}}, http.StatusOK)
		}, []string{"nothing has failed."}},
		{"recover where nothing was missed", func(s *stage) {
			s.add(relay.WebhookConfig{})
			s.send(http.MethodPost, &url.URL{Path: mount + "/webhooks/crm/recover"}, url.Values{"span": {"1h"}}, http.StatusOK)
		}, []string{"nothing failed or was missed in that time."}},
		{"delete", func(s *stage) {
			s.add(relay.WebhookConfig{})
			s.open("/webhooks/crm/delete")
			s.submit("/delete", nil)
		}, []string{"No delivery was waiting for it."}},
		{"delete with what waits", func(s *stage) {
			s.add(relay.WebhookConfig{})
			s.retrying(2)
			s.open("/webhooks/crm/delete")
			s.submit("/delete", nil)
		}, []string{"2 waiting deliveries were cancelled."}},
		{"set a secret", func(s *stage) { s.add(relay.WebhookConfig{}); s.act("/rotate", nil) }, []string{"Secret set."}},
		{"change the secret", func(s *stage) {
			s.add(relay.WebhookConfig{Secret: "old"})
			s.act("/rotate", url.Values{"overlap": {"24h"}})
		}, []string{"also works for 24 hours."}},
		{"change the secret at once", func(s *stage) {
			s.add(relay.WebhookConfig{Secret: "old"})
			s.act("/rotate", url.Values{"overlap": {"0s"}})
		}, []string{"no longer works."}},
		{"set a signing key", func(s *stage) { s.add(relay.WebhookConfig{}); s.act("/rotate-signing-key", nil) }, []string{"Key set."}},
		{"change the signing key", func(s *stage) {
			s.add(relay.WebhookConfig{SigningKey: signature.NewKey().String()})
			s.act("/rotate-signing-key", url.Values{"overlap": {"24h"}})
		}, []string{"also signs for 24 hours."}},
		{"change the signing key at once", func(s *stage) {
			s.add(relay.WebhookConfig{SigningKey: signature.NewKey().String()})
			s.act("/rotate-signing-key", url.Values{"overlap": {"0s"}})
		}, []string{"no longer signs."}},
		{"remove the signing keys", func(s *stage) {
			s.add(relay.WebhookConfig{SigningKey: signature.NewKey().String(), PreviousSigningKey: signature.NewKey().String()})
			s.act("/rotate-signing-key", url.Values{"go": {"remove"}})
		}, []string{"Key removed."}},
		{"test", func(s *stage) { s.add(relay.WebhookConfig{}); s.act("/test", nil) }, []string{"It works", "was sent, with"}},
		{"test what answers 500", func(s *stage) {
			s.add(relay.WebhookConfig{})
			s.status.Store(500)
			s.act("/test", nil)
		}, []string{"It does not work yet: answered 500", "was sent, with"}},
		{"test what egress refuses", func(s *stage) {
			s.add(relay.WebhookConfig{URL: "http://10.1.2.3/"})
			s.act("/test", nil)
		}, []string{"It does not work yet", "Nothing was sent"}},
		{"test what hangs", func(s *stage) {
			s.add(relay.WebhookConfig{Timeout: 200 * time.Millisecond})
			s.status.Store(0)
			s.act("/test", nil)
		}, []string{"It does not work yet", "There was no answer"}},
	}
	said := make(map[string]bool)
	for _, c := range scenarios {
		s := newStage(t)
		c.act(s)
		text := s.text()
		for _, own := range c.says {
			if !strings.Contains(text, own) {
				t.Errorf("%s: the page does not say %q: %s", c.name, own, text)
			}
		}
		for pattern, holds := range sentences {
			found := regexp.MustCompile(pattern).FindStringSubmatch(text)
			if found == nil {
				continue
			}
			said[pattern] = true
			var n int64
			if strings.Contains(pattern, `(\d+)`) {
				n, _ = strconv.ParseInt(found[1], 10, 64)
			}
			if !holds(s, n) {
				t.Errorf("%s: the page says %q, and the webhook is %+v", c.name, found[0], s.crm())
			}
		}
	}
	for pattern := range sentences {
		if !said[pattern] {
			t.Errorf("no scenario makes the console say %q", pattern)
		}
	}
}
