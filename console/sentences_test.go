package console_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/userhero/relay/console"
	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/console/resend"
	"github.com/userhero/relay/console/words"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/deliver"
	"github.com/userhero/relay/relay/signature"
)

// stage is a console with a webhook crm, whose receiver does what a scenario says.
type stage struct {
	*visit
	status   atomic.Int64 // the receiver's answer; 0 hangs until the test ends
	pause    atomic.Bool  // it asks for a pause of half an hour
	requests atomic.Int64
	url      string
	released chan struct{} // closed to end what hangs with 200
	ended    chan struct{}

	// Before the action:
	before int64               // requests
	was    relay.WebhookStatus // the webhook
	// given is a sentence that the page does not say, because only another person's action
	// in the same moment leads to it. It is made of the state.
	given string
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{visit: newVisit(t, relay.Config{}), released: make(chan struct{}), ended: make(chan struct{})}
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
		case <-s.released:
			w.WriteHeader(http.StatusOK)
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
	s.do(form, fields)
}

// do submits a form of the present page.
func (s *stage) do(form string, fields url.Values) {
	s.t.Helper()
	s.before, s.was = s.requests.Load(), s.crm()
	s.submit(form, fields)
}

// ask sends a form that no page shows in this state, as one that was opened before does.
func (s *stage) ask(path string, fields url.Values, want int) {
	s.t.Helper()
	s.before, s.was = s.requests.Load(), s.crm()
	s.send(http.MethodPost, &url.URL{Path: mount + path}, fields, want)
}

// say notes the sentence that words make of a state.
func (s *stage) say(f *words.Flash) { s.given = f.Text + " " + f.Link }

// said is what the page says, with the sentence that was given.
func (s *stage) said() string { return s.text() + " " + s.given }

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
	receipt, err := s.relay.Accept(s.t.Context(), queue.Entry{
		Type: string(event.Created), Feedback: queue.FeedbackID{ID: fmt.Sprint("fb_", time.Now().UnixNano())}, Body: []byte(`{"event":"feedback.created","data":{}}`),
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

// has reports whether there is feedback with this id.
func (s *stage) has(id string) bool {
	_, err := s.relay.Queue().Latest(s.t.Context(), queue.FeedbackID{ID: id})
	return err == nil
}

// States that sentences claim.

func paused(w relay.WebhookStatus) bool { return w.State == relay.Disabled }

func sends(w relay.WebhookStatus) bool {
	return w.State == relay.Active && !w.Probing && w.HeldUntil.IsZero()
}

// heldOff reports whether the receiver asked for a pause, and gets nothing.
func (s *stage) heldOff() bool {
	return time.Until(s.crm().HeldUntil) > 29*time.Minute && s.requests.Load() == s.before
}

// arrives reports whether so many deliveries succeed. It does not wait if none can.
func (s *stage) arrives(n int64) bool {
	if !sends(s.crm()) || s.status.Load() != http.StatusOK {
		return false
	}
	s.waitFor("they go out", func(w relay.WebhookStatus) bool { return w.Counts.Delivered >= n && waiting(w) == 0 })
	return true
}

// misses reports whether the webhook misses so many events of the last hour.
func (s *stage) misses(n int64) bool {
	got, err := s.relay.Recover(s.t.Context(), "crm", relay.Recovery{Missed: true, Since: time.Now().Add(-time.Hour), DryRun: true}, "ada")
	if err != nil {
		s.t.Fatal(err)
	}
	return got == n
}

// unchanged reports whether the webhook is as it was before the action.
func (s *stage) unchanged() bool {
	now := s.crm()
	return now.State == s.was.State && now.URL == s.was.URL && now.Timeout == s.was.Timeout && reflect.DeepEqual(now.Retry, s.was.Retry)
}

func waiting(w relay.WebhookStatus) int64 {
	return w.Counts.Pending + w.Counts.Retrying + w.Counts.Held
}

// failed brings one delivery to an end without success, and returns its id.
func (s *stage) failed() string {
	s.add(relay.WebhookConfig{Retry: []time.Duration{}})
	s.failing()
	s.open("/events?state=failed")
	return regexp.MustCompile(`dlv_\w+`).FindString(s.page)
}

// again redelivers it.
func (s *stage) again(id string) {
	s.open("/events?q=" + id)
	s.do("/redeliver", nil)
}

// gone has the receiver answer 410 Gone.
func (s *stage) gone() {
	s.status.Store(http.StatusGone)
	s.accept("fb_gone", `"gone"`)
	s.waitFor("410 disables", paused)
	s.status.Store(http.StatusOK)
}

// parked takes the webhook out of the configuration file.
func (s *stage) parked() {
	for _, webhooks := range [][]relay.WebhookConfig{{{Name: "crm", URL: s.url, Retry: []time.Duration{time.Hour}}}, nil} {
		if _, err := s.relay.Attach(relay.Config{Webhooks: webhooks, Egress: deliver.Egress{Allow: []string{"127.0.0.1"}}}); err != nil {
			s.t.Fatal(err)
		}
		if webhooks != nil {
			s.retrying(1)
		}
	}
}

// elsewhere opens the present page in a console that has not begun its action.
func (s *stage) elsewhere() {
	path := strings.TrimPrefix(s.at.Path, mount)
	s.site = http.StripPrefix(mount, console.New(api.Options{Relay: s.relay}))
	s.open(path)
}

// What people do, by name. The sentences below say what each leads to.
var actions = map[string]func(s *stage){
	"add": func(s *stage) {
		s.open("/add")
		s.submit("add", url.Values{"url": {s.url}, "name": {"crm"}, "go": {"secret"}})
		s.submit("add", url.Values{"go": {"test"}})
		s.do("add", url.Values{"go": {"save"}})
	},
	"add a name that is taken meanwhile": func(s *stage) {
		s.open("/add")
		s.submit("add", url.Values{"url": {s.url}, "name": {"crm"}, "go": {"secret"}})
		s.add(relay.WebhookConfig{URL: "http://127.0.0.1:1/"})
		s.was = s.crm()
		s.post("add", url.Values{"go": {"save"}}, http.StatusUnprocessableEntity)
	},
	"begin to add":            func(s *stage) { s.open("/add") },
	"go on with an old draft": func(s *stage) { s.open("/add?shown=none") },

	"pause": func(s *stage) { s.add(relay.WebhookConfig{}); s.act("/pause", nil) },
	"pause with deliveries on the rung": func(s *stage) {
		s.add(relay.WebhookConfig{})
		s.retrying(2)
		s.act("/pause", nil)
	},
	"pause what somebody resumes": func(s *stage) {
		s.add(relay.WebhookConfig{})
		s.say(words.Paused(s.crm()))
	},
	"pause what somebody has deleted": func(s *stage) {
		s.ask("/webhooks/crm/pause", nil, http.StatusNotFound)
	},
	"resume": func(s *stage) {
		s.add(relay.WebhookConfig{})
		s.act("/pause", nil)
		s.do("/enable", nil)
	},
	"resume after events were missed": func(s *stage) {
		s.add(relay.WebhookConfig{})
		s.act("/pause", nil)
		s.accept("fb_1", `"missed"`)
		s.accept("fb_2", `"missed"`)
		s.open("/webhooks/crm")
		s.do("/enable", nil)
	},
	"resume after more events were missed than can be counted": func(s *stage) {
		s.add(relay.WebhookConfig{})
		s.act("/pause", nil)
		s.accept("fb_1", `"missed"`)
		s.accept("fb_2", `"missed"`)
		s.was = s.crm()
		s.ask("/webhooks/crm/enable", nil, http.StatusOK)
		s.say(words.Resumed(s.was, s.crm(), 1, false, ""))
	},
	"resume what an old version paused": func(s *stage) {
		s.add(relay.WebhookConfig{})
		s.act("/pause", nil)
		before := s.crm()
		before.DisabledSince = time.Time{}
		s.ask("/webhooks/crm/enable", nil, http.StatusOK)
		s.was = before
		s.say(words.Resumed(before, s.crm(), 0, true, ""))
	},
	"resume with deliveries on the rung": func(s *stage) {
		s.add(relay.WebhookConfig{})
		s.retrying(1)
		s.act("/pause", nil)
		s.do("/enable", nil)
	},
	"resume with deliveries that were not sent": func(s *stage) {
		s.add(relay.WebhookConfig{Concurrency: 1})
		s.status.Store(0)
		s.accept("fb_1", `"hangs"`)
		s.waitFor("the attempt begins", func(relay.WebhookStatus) bool { return s.requests.Load() == 1 })
		s.accept("fb_2", `"waits behind it"`)
		s.act("/pause", nil)
		s.status.Store(http.StatusOK)
		s.do("/enable", nil)
		close(s.released)
	},
	"resume what somebody has resumed": func(s *stage) {
		s.add(relay.WebhookConfig{})
		s.act("/pause", nil)
		if err := s.relay.Enable(s.t.Context(), "crm", "bob"); err != nil {
			s.t.Fatal(err)
		}
		s.do("/enable", nil)
	},
	"resume what somebody pauses": func(s *stage) {
		s.add(relay.WebhookConfig{})
		s.act("/pause", nil)
		s.say(words.Resumed(s.crm(), s.crm(), 0, true, ""))
	},
	"resume while the receiver wants a pause": func(s *stage) {
		s.pausing()
		s.accept("fb_2", `"comes meanwhile"`)
		s.act("/pause", nil)
		s.do("/enable", nil)
	},
	"enable after 410": func(s *stage) {
		s.add(relay.WebhookConfig{})
		s.gone()
		s.act("/enable", nil)
	},

	"save": func(s *stage) {
		s.add(relay.WebhookConfig{})
		s.act("/settings", url.Values{"timeout": {"5s"}})
	},
	"save what is wrong": func(s *stage) {
		s.add(relay.WebhookConfig{})
		s.open("/webhooks/crm/settings")
		s.was = s.crm()
		s.post("/settings", url.Values{"timeout": {"soon"}}, http.StatusUnprocessableEntity)
	},
	"save without a change": func(s *stage) {
		s.add(relay.WebhookConfig{Timeout: 30 * time.Second, Concurrency: 8, Events: []event.Type{}})
		s.act("/settings", nil)
	},
	"save while paused": func(s *stage) {
		s.add(relay.WebhookConfig{})
		s.act("/pause", nil)
		s.act("/settings", url.Values{"timeout": {"5s"}})
	},

	"redeliver": func(s *stage) {
		id := s.failed()
		s.status.Store(http.StatusOK)
		s.relay.Recover(s.t.Context(), "crm", relay.Recovery{Failed: true}, "ada") //nolint:errcheck // the wait shows it
		s.waitFor("it works again", func(w relay.WebhookStatus) bool { return w.Counts.Delivered == 1 && sends(w) })
		s.again(id)
	},
	"redeliver while failing": func(s *stage) { s.again(s.failed()) },
	"redeliver while paused": func(s *stage) {
		id := s.failed()
		s.act("/pause", nil)
		s.again(id)
	},
	"redeliver after 410": func(s *stage) {
		s.add(relay.WebhookConfig{Retry: []time.Duration{}})
		s.gone()
		s.waitFor("it ends", func(w relay.WebhookStatus) bool { return w.Counts.Failed == 1 })
		s.open("/events?state=failed")
		s.again(regexp.MustCompile(`dlv_\w+`).FindString(s.page))
	},
	"redeliver to what left the Caddyfile": func(s *stage) {
		s.parked()
		s.open("/events")
		s.again(regexp.MustCompile(`dlv_\w+`).FindString(s.page))
	},
	"redeliver what somebody deletes": func(s *stage) { s.say(words.Redelivered(nil)) },
	"redeliver while the receiver wants a pause": func(s *stage) {
		s.pausing()
		s.open("/webhooks/crm")
		s.again(regexp.MustCompile(`dlv_\w+`).FindString(s.page))
	},
	"redeliver what is under way": func(s *stage) {
		s.add(relay.WebhookConfig{})
		s.status.Store(0)
		s.accept("fb_1", `"hangs"`)
		s.waitFor("the attempt begins", func(relay.WebhookStatus) bool { return s.requests.Load() == 1 })
		s.open("/webhooks/crm")
		s.again(regexp.MustCompile(`dlv_\w+`).FindString(s.page))
	},

	"delete": func(s *stage) {
		s.add(relay.WebhookConfig{})
		s.open("/webhooks/crm/delete")
		s.do("/delete", nil)
	},
	"erase": func(s *stage) {
		s.accept("fb_1", `"to erase"`)
		s.open("/feedback/fb_1?project=")
		s.open("/erase?feedback=fb_1&project=")
		s.do("/erase", nil)
	},
	"erase with what waits": func(s *stage) {
		s.add(relay.WebhookConfig{})
		s.retrying(1)
		s.open("/erase?feedback=fb_r0&project=")
		s.do("/erase", nil)
	},
	"erase what somebody has erased": func(s *stage) { s.ask("/erase", url.Values{"value": {"user_1"}}, http.StatusOK) },
	"look at what would be erased": func(s *stage) {
		s.accept("fb_1", `"to erase"`)
		s.open("/erase?feedback=fb_1&project=")
	},
	"look at what would be erased, with what waits": func(s *stage) {
		s.add(relay.WebhookConfig{})
		s.retrying(1)
		s.open("/erase?feedback=fb_r0&project=")
	},
	"look at what nobody has said": func(s *stage) { s.open("/erase?value=user_1") },
	"look at more than can be counted": func(s *stage) {
		s.accept("fb_1", `"to erase"`)
		s.given = words.WouldErase(relay.Erased{}, false)
	},
	"delete with what waits": func(s *stage) {
		s.add(relay.WebhookConfig{})
		s.retrying(2)
		s.open("/webhooks/crm/delete")
		s.do("/delete", nil)
	},

	"set a secret": func(s *stage) { s.add(relay.WebhookConfig{}); s.act("/rotate", nil) },
	"change the secret": func(s *stage) {
		s.add(relay.WebhookConfig{Secret: "old"})
		s.act("/rotate", url.Values{"overlap": {"24h"}})
	},
	"change the secret at once": func(s *stage) {
		s.add(relay.WebhookConfig{Secret: "old"})
		s.act("/rotate", url.Values{"overlap": {"0s"}})
	},
	"change the secret and reload": func(s *stage) {
		s.add(relay.WebhookConfig{Secret: "old"})
		s.act("/rotate", url.Values{"overlap": {"24h"}})
		s.send(http.MethodGet, s.at, nil, http.StatusOK)
	},

	"set a signing key": func(s *stage) { s.add(relay.WebhookConfig{}); s.act("/rotate-signing-key", nil) },
	"change the signing key": func(s *stage) {
		s.add(relay.WebhookConfig{SigningKey: signature.NewKey().String()})
		s.act("/rotate-signing-key", url.Values{"overlap": {"24h"}})
	},
	"change the signing key at once": func(s *stage) {
		s.add(relay.WebhookConfig{SigningKey: signature.NewKey().String()})
		s.act("/rotate-signing-key", url.Values{"overlap": {"0s"}})
	},
	"remove the signing keys": func(s *stage) {
		s.add(relay.WebhookConfig{SigningKey: signature.NewKey().String(), PreviousSigningKey: signature.NewKey().String()})
		s.act("/rotate-signing-key", url.Values{"go": {"remove"}})
	},

	"test": func(s *stage) { s.add(relay.WebhookConfig{}); s.act("/test", nil) },
	"test what answers 500": func(s *stage) {
		s.add(relay.WebhookConfig{})
		s.status.Store(http.StatusInternalServerError)
		s.act("/test", nil)
	},
	"test what egress refuses": func(s *stage) {
		s.add(relay.WebhookConfig{URL: "http://10.1.2.3/"})
		s.act("/test", nil)
	},
	"test what hangs": func(s *stage) {
		s.add(relay.WebhookConfig{Timeout: 200 * time.Millisecond})
		s.status.Store(0)
		s.act("/test", nil)
	},

	"check the right secret": func(s *stage) { s.check("the secret") },
	"check another secret":   func(s *stage) { s.check("another") },

	"send all that failed": func(s *stage) {
		s.failedMany(2)
		s.status.Store(http.StatusOK)
		s.recover("failed", "Done")
	},
	"send all that failed, which fails again": func(s *stage) {
		s.failedMany(2)
		s.recover("failed", "Done")
	},
	"send all that failed while paused, and leave the page": func(s *stage) {
		s.failedMany(2)
		s.act("/pause", nil)
		s.recover("failed", "It waits")
	},
	"send all that failed after 410": func(s *stage) {
		s.add(relay.WebhookConfig{Retry: []time.Duration{}})
		s.gone()
		s.waitFor("it ends", func(w relay.WebhookStatus) bool { return w.Counts.Failed == 1 })
		s.recover("failed", "It waits")
	},
	"send all that waits for what left the Caddyfile": func(s *stage) {
		s.parked()
		s.recover("waiting", "It waits")
	},
	"send all that waits while the receiver wants a pause": func(s *stage) {
		s.pausing()
		s.recover("waiting", "It waits")
	},
	"send all that failed to what hangs": func(s *stage) {
		s.failedMany(2)
		s.status.Store(0)
		s.recover("failed", "It waits")
	},
	"send all that failed while paused, and stop": func(s *stage) {
		s.failedMany(2)
		s.act("/pause", nil)
		s.recover("failed", "It waits")
		s.submit("/stop", nil)
		s.reload("Stopped.")
	},
	"send all that failed to what hangs, and stop": func(s *stage) {
		s.failedMany(2)
		s.status.Store(0)
		s.recover("failed", "1 queued")
		s.submit("/stop", nil)
		s.reload("Stopped.")
	},
	"send the chosen again, which are under way": func(s *stage) {
		s.add(relay.WebhookConfig{})
		s.status.Store(0)
		s.accept("fb_1", `"hangs"`)
		s.waitFor("the attempt begins", func(relay.WebhookStatus) bool { return s.requests.Load() == 1 })
		s.open("/events?webhook=crm")
		s.open("/resend/new?delivery=" + regexp.MustCompile(`dlv_\w+`).FindString(s.page))
		s.do("/resend", nil)
		s.reload("Done")
	},
	"send all that failed, which is nothing": func(s *stage) {
		s.add(relay.WebhookConfig{})
		s.recover("failed", "Nothing was sent again")
	},
	"look at an action after a restart": func(s *stage) {
		s.failedMany(2)
		s.act("/pause", nil)
		s.recover("failed", "It waits")
		s.elsewhere()
	},
	"look at an action that has ended, after a restart": func(s *stage) {
		s.failedMany(2)
		s.status.Store(http.StatusOK)
		s.recover("failed", "Done")
		s.until("/activity", "Deliveries queued again crm 2")
		s.open("/resend/" + regexp.MustCompile(`resend/(\w+)`).FindStringSubmatch(s.page)[1])
		s.elsewhere()
	},
	"look at an action of another relay": func(s *stage) { s.given = words.AfterLost(true) },
	"look at an action that begins": func(s *stage) {
		s.given = words.Resent(resend.Status{State: resend.Running, Finding: true, All: 2})
	},
}

// recover sends again what one webhook did not get, and waits until the page says so.
func (s *stage) recover(span, says string) {
	s.t.Helper()
	s.ask("/webhooks/crm/recover", url.Values{"span": {span}}, http.StatusOK)
	s.reload(says)
}

// check makes an attempt that is signed, and checks its signature.
func (s *stage) check(secret string) {
	s.t.Helper()
	s.add(relay.WebhookConfig{Secret: "the secret"})
	id := s.accept("fb_1", `"signed"`)
	s.until("/events/"+id.String(), "200 OK")
	s.submit("/check", url.Values{"secret": {secret}})
	s.given = "(checked: " + secret + ")"
}

// sentence is one that the console says after an action.
type sentence struct {
	says  string // a pattern; its first group is n
	holds func(s *stage, n int64) bool
	after string // an action that makes the state so
	not   string // an action of the same kind that makes the state otherwise
}

const number = `(\d+) `

var sentences = []sentence{
	{`Webhook crm added\. New events that match its settings are sent to it\.`, func(s *stage, _ int64) bool {
		return s.crm().URL == s.url && sends(s.crm()) && s.queues()
	}, "add", "add a name that is taken meanwhile"},
	{`Nothing was added\. 1 field is wrong`, func(s *stage, _ int64) bool { return s.crm().URL != s.url }, "add a name that is taken meanwhile", "add"},
	{`This step has expired\. Start again\.`, func(s *stage, _ int64) bool { return s.at.Query().Has("shown") }, "go on with an old draft", "begin to add"},

	{`Paused\. New events are not queued for crm; use Recover to send them after you resume\.`, func(s *stage, _ int64) bool {
		return paused(s.crm()) && !s.queues()
	}, "pause", "pause what somebody resumes"},
	{`crm is not paused: somebody else resumed it at the same time\.`, func(s *stage, _ int64) bool { return sends(s.crm()) }, "pause what somebody resumes", "pause"},
	{number + `waiting deliver(y is|ies are) held until then\.`, func(s *stage, n int64) bool { return paused(s.crm()) && s.crm().Counts.Held == n }, "pause with deliveries on the rung", "pause"},
	{`There is no webhook named "crm"\. It may have been deleted\.`, func(s *stage, _ int64) bool { return s.crm().Name == "" }, "pause what somebody has deleted", "pause"},

	{`crm was not paused\. Nothing changed\.`, func(s *stage, _ int64) bool { return !paused(s.was) && s.unchanged() }, "resume what somebody has resumed", "resume"},
	{`crm is still paused: somebody else paused it at the same time\.`, func(s *stage, _ int64) bool { return paused(s.crm()) }, "resume what somebody pauses", "resume"},
	{`Resumed\. New events are sent to crm again\.`, func(s *stage, _ int64) bool {
		return words.PausedByOwner(s.was) && sends(s.crm()) && s.queues()
	}, "resume", "resume while the receiver wants a pause"},
	{`Resumed\. New events are queued for crm again\.`, func(s *stage, _ int64) bool { return s.heldOff() && s.queues() }, "resume while the receiver wants a pause", "resume"},
	{`Enabled\. New events are sent to crm again\.`, func(s *stage, _ int64) bool {
		return !words.PausedByOwner(s.was) && sends(s.crm()) && s.queues()
	}, "enable after 410", "resume"},
	{` (\d+) events? w(as|ere) missed meanwhile\. Send what it missed`, func(s *stage, n int64) bool { return s.misses(n) }, "resume after events were missed", "resume"},
	{`More than ` + number + `events? w(as|ere) missed meanwhile\. Send what it missed`, func(s *stage, n int64) bool {
		return !s.misses(0) && !s.misses(n)
	}, "resume after more events were missed than can be counted", "resume"},
	{`It missed no event\.`, func(s *stage, _ int64) bool { return s.misses(0) }, "resume", "resume after events were missed"},
	{`Use Recover to send the events it missed\.`, func(s *stage, _ int64) bool { return s.was.DisabledSince.IsZero() }, "resume what an old version paused", "resume"},
	{number + `held deliver(y is|ies are) sent now, one at first\.`, func(s *stage, n int64) bool { return s.arrives(n) }, "resume with deliveries that were not sent", "resume while the receiver wants a pause"},
	{number + `held deliver(y is|ies are) sent when the pause ends that the receiver asked for`, func(s *stage, n int64) bool {
		return s.heldOff() && s.crm().Counts.Pending == n
	}, "resume while the receiver wants a pause", "resume with deliveries that were not sent"},
	{number + `deliver(y waits|ies wait) for the next retry`, func(s *stage, n int64) bool { return s.crm().Counts.Retrying == n }, "resume with deliveries on the rung", "resume"},

	{`Nothing changed: the settings are the same as before\.`, func(s *stage, _ int64) bool { return s.unchanged() }, "save without a change", "save"},
	{`Nothing was saved\. 1 field is wrong`, func(s *stage, _ int64) bool { return s.unchanged() }, "save what is wrong", "save"},
	{`Settings saved\. The next attempt uses them\.`, func(s *stage, _ int64) bool { return s.crm().Timeout == 5*time.Second && sends(s.crm()) }, "save", "save while paused"},
	{`Settings saved\. They are used when you resume crm\.`, func(s *stage, _ int64) bool { return s.crm().Timeout == 5*time.Second && paused(s.crm()) }, "save while paused", "save"},

	{`Queued again\. It will be sent to crm as soon as possible\.`, func(s *stage, _ int64) bool { return s.arrives(1) }, "redeliver", "redeliver while paused"},
	{`Queued again\. It is held until you resume crm\.`, func(s *stage, _ int64) bool { return words.PausedByOwner(s.crm()) && s.crm().Counts.Held == 1 }, "redeliver while paused", "redeliver after 410"},
	{`Queued again\. It is held until you enable crm\.`, func(s *stage, _ int64) bool {
		return paused(s.crm()) && !words.PausedByOwner(s.crm()) && s.crm().Counts.Held == 1
	}, "redeliver after 410", "redeliver while paused"},
	{`Queued again\. It is held until crm is in the Caddyfile again\.`, func(s *stage, _ int64) bool { return s.crm().Parked && s.crm().Counts.Held == 1 }, "redeliver to what left the Caddyfile", "redeliver while paused"},
	{`Queued again\. While crm does not answer, one delivery at a time is tried\.`, func(s *stage, _ int64) bool { return s.crm().Probing }, "redeliver while failing", "redeliver"},
	{`Queued again\. It will be sent when the pause ends that crm asked for`, func(s *stage, _ int64) bool { return s.heldOff() }, "redeliver while the receiver wants a pause", "redeliver"},
	{`The delivery was queued again, but its webhook was deleted meanwhile\.`, func(s *stage, _ int64) bool { return s.crm().Name == "" }, "redeliver what somebody deletes", "redeliver"},
	{`Nothing was queued: this delivery is being sent at the moment\.`, func(s *stage, _ int64) bool { return s.status.Load() == 0 && s.requests.Load() == 1 }, "redeliver what is under way", "redeliver"},

	{`Webhook crm deleted\. No delivery was waiting for it\.`, func(s *stage, _ int64) bool { return s.crm().Name == "" && waiting(s.was) == 0 }, "delete", "delete with what waits"},
	{`Webhook crm deleted\. ` + number + `waiting deliver(y was|ies were) cancelled\.`, func(s *stage, n int64) bool {
		s.open("/events?state=failed")
		return s.crm().Name == "" && int64(strings.Count(s.text(), "Cancelled: the webhook was deleted")) == n
	}, "delete with what waits", "delete"},

	{`1 feedback would be erased, with 1 event and everything that was sent\.`, func(s *stage, _ int64) bool { return s.has("fb_1") }, "look at what would be erased", "look at what nobody has said"},
	{number + `waiting deliver(y|ies) would be cancelled\.`, func(s *stage, n int64) bool { return s.crm().Counts.Retrying == n }, "look at what would be erased, with what waits", "look at what would be erased"},
	{`No feedback has this value\.`, func(s *stage, _ int64) bool { return !s.has("fb_1") }, "look at what nobody has said", "look at what would be erased"},
	{`There is too much feedback to count\. All that matches would be erased\.`, func(s *stage, _ int64) bool { return s.has("fb_1") }, "look at more than can be counted", "look at what nobody has said"},
	{`Erased: 1 feedback with 1 event\.`, func(s *stage, _ int64) bool { return !s.has("fb_1") }, "erase", "look at what would be erased"},
	{`Erased: 1 feedback with 1 event\. ` + number + `waiting deliver(y was|ies were) cancelled\.`, func(s *stage, _ int64) bool { return s.crm().Counts.Retrying == 0 }, "erase with what waits", "look at what would be erased, with what waits"},
	{`Nothing was erased: no feedback matched any more\.`, func(s *stage, _ int64) bool { return !s.has("fb_1") }, "erase what somebody has erased", "look at what would be erased"},

	{`Secret set\. All requests are signed from now on\.`, func(s *stage, _ int64) bool { return !s.was.HasSecret && s.crm().HasSecret }, "set a secret", "change the secret"},
	{`Secret changed\. The old secret also works for 24 hours\.`, func(s *stage, _ int64) bool {
		return time.Until(s.crm().PreviousUntil).Round(time.Hour) == 24*time.Hour
	}, "change the secret", "change the secret at once"},
	{`Secret changed\. The old secret no longer works\.`, func(s *stage, _ int64) bool { return s.was.HasSecret && s.crm().PreviousUntil.IsZero() }, "change the secret at once", "change the secret"},
	{`The new secret was shown here once and cannot be shown again\.`, func(s *stage, _ int64) bool { return !strings.Contains(s.page, "whsec_") }, "change the secret and reload", "change the secret"},

	{`Key set\. All requests have an asymmetric signature from now on\.`, func(s *stage, _ int64) bool { return len(s.was.PublicKeys) == 0 && len(s.crm().PublicKeys) == 1 }, "set a signing key", "change the signing key"},
	{`Key changed\. The old key also signs for 24 hours\.`, func(s *stage, _ int64) bool {
		return len(s.crm().PublicKeys) == 2 && time.Until(s.crm().PreviousSigningUntil).Round(time.Hour) == 24*time.Hour
	}, "change the signing key", "change the signing key at once"},
	{`Key changed\. The old key no longer signs\.`, func(s *stage, _ int64) bool { return len(s.was.PublicKeys) == 1 && len(s.crm().PublicKeys) == 1 }, "change the signing key at once", "change the signing key"},
	{`Key removed\. Requests have no asymmetric signature any more\.`, func(s *stage, _ int64) bool { return len(s.crm().PublicKeys) == 0 }, "remove the signing keys", "change the signing key at once"},

	{`It works: the receiver answered 200 OK`, func(s *stage, _ int64) bool { return s.status.Load() == 200 && s.requests.Load() == s.before+1 }, "test", "test what answers 500"},
	{`It does not work yet: `, func(s *stage, _ int64) bool { return s.status.Load() != 200 || s.requests.Load() == s.before }, "test what answers 500", "test"},
	{`The sample event of the documentation was sent, with`, func(s *stage, _ int64) bool { return s.requests.Load() == s.before+1 }, "test", "test what egress refuses"},
	{`Nothing was sent: there was no connection to the receiver\.`, func(s *stage, _ int64) bool { return s.requests.Load() == s.before }, "test what egress refuses", "test"},
	{`There was no answer\. The receiver may have got the sample event or not\.`, func(s *stage, _ int64) bool { return s.status.Load() == 0 }, "test what hangs", "test"},

	{`The signature is right: this attempt was signed with this secret\.`, func(s *stage, _ int64) bool { return s.given == "(checked: the secret)" }, "check the right secret", "check another secret"},
	{`The signature does not match this secret\.`, func(s *stage, _ int64) bool { return s.given != "(checked: the secret)" }, "check another secret", "check the right secret"},

	{`Done: ` + number + `deliver(y was|ies were) sent again\. (\d+) delivered, 0 failed again\.`, func(s *stage, n int64) bool {
		return s.requests.Load()-s.before == n && s.crm().Counts.Delivered == n && s.crm().Counts.Failed == 0
	}, "send all that failed", "send all that failed, which fails again"},
	{`Done: 2 deliveries were sent again\. 0 delivered, ` + number + `failed again\.`, func(s *stage, n int64) bool { return s.crm().Counts.Failed == n }, "send all that failed, which fails again", "send all that failed"},
	{`Nothing was sent again: no delivery matched\.`, func(s *stage, _ int64) bool { return s.requests.Load() == 0 }, "send all that failed, which is nothing", "send all that failed"},
	{`Looking for deliveries to send again: ` + number + `found\.`, func(s *stage, _ int64) bool { return s.requests.Load() == 0 }, "look at an action that begins", "send all that failed"},
	{`Sending again: ` + number + `of 2 sent\.`, func(s *stage, n int64) bool { return s.requests.Load()-s.before == n && s.crm().Counts.Failed == 2 }, "send all that failed while paused, and leave the page", "send all that failed"},
	{`It waits: crm is paused\.`, func(s *stage, _ int64) bool { return words.PausedByOwner(s.crm()) && s.requests.Load() == s.before }, "send all that failed while paused, and leave the page", "send all that failed after 410"},
	{`It waits: crm is disabled\.`, func(s *stage, _ int64) bool { return paused(s.crm()) && !words.PausedByOwner(s.crm()) }, "send all that failed after 410", "send all that failed while paused, and leave the page"},
	{`It waits: crm is not in the Caddyfile\.`, func(s *stage, _ int64) bool { return s.crm().Parked }, "send all that waits for what left the Caddyfile", "send all that failed after 410"},
	{`It waits: crm asked for a pause \(Retry-After\)\.`, func(s *stage, _ int64) bool { return s.heldOff() }, "send all that waits while the receiver wants a pause", "send all that failed to what hangs"},
	{`It waits: crm does not answer, so one delivery at a time is tried\.`, func(s *stage, _ int64) bool { return s.crm().Probing && s.requests.Load() <= s.before+1 }, "send all that failed to what hangs", "send all that waits while the receiver wants a pause"},
	{`Stopped\. 0 of 2 sent; ` + number + `stayed as they were\.`, func(s *stage, n int64) bool {
		return s.crm().Counts.Failed == n && s.requests.Load() <= s.before+1
	}, "send all that failed while paused, and stop", "send all that failed"},
	{` ` + number + `w(as|ere) queued already and will still be sent\.`, func(s *stage, n int64) bool { return waiting(s.crm()) == n }, "send all that failed to what hangs, and stop", "send all that failed while paused, and stop"},
	{` ` + number + `w(as|ere) left out: being sent, queued or gone already\.`, func(s *stage, n int64) bool { return s.status.Load() == 0 && s.requests.Load() == n }, "send the chosen again, which are under way", "send all that failed"},
	{`It is not known how this action ended\.`, func(s *stage, _ int64) bool {
		s.open("/activity")
		return !strings.Contains(s.text(), "Deliveries queued again")
	}, "look at an action after a restart", "look at an action that has ended, after a restart"},
	{`The relay was restarted while it ran\. What was queued by then is sent\. What was not queued stayed as it was\.`, func(s *stage, _ int64) bool {
		return s.crm().Counts.Failed == 2
	}, "look at an action after a restart", "look at an action that has ended, after a restart"},
	{`Another relay runs it, or the relay was restarted while it ran\.`, func(s *stage, _ int64) bool { return s.requests.Load() == 0 }, "look at an action of another relay", "look at an action that has ended, after a restart"},
}

// TestSentencesAreTrue: every sentence that the console says after an action is said when
// the state is what it claims, and another is said when the state is not.
func TestSentencesAreTrue(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var all strings.Builder // what was said
	t.Run("sentences", func(t *testing.T) {
		for _, c := range sentences {
			t.Run(c.says, func(t *testing.T) {
				t.Parallel()
				pattern := regexp.MustCompile(c.says)
				s := newStage(t)
				actions[c.after](s)
				text := s.said()
				found := pattern.FindStringSubmatch(text)
				if found == nil {
					t.Fatalf("after %q the page does not say it: %s", c.after, text)
				}
				var n int64
				if len(found) > 1 {
					n, _ = strconv.ParseInt(found[1], 10, 64) // 0 if it is no number
				}
				if !c.holds(s, n) {
					t.Errorf("after %q the page says %q, and the webhook is %+v", c.after, found[0], s.crm())
				}
				mu.Lock()
				all.WriteString(text + "\n")
				mu.Unlock()

				other := newStage(t)
				actions[c.not](other)
				text = other.said()
				if pattern.MatchString(text) {
					t.Errorf("after %q the page says so too: %s", c.not, text)
				}
				if c.holds(other, n) {
					t.Errorf("after %q it is true too: the test shows nothing", c.not)
				}
				said := false
				for _, another := range sentences {
					said = said || regexp.MustCompile(another.says).MatchString(text)
				}
				if !said && c.not != "begin to add" {
					t.Errorf("after %q the page says nothing else: %s", c.not, text)
				}
			})
		}
	})
	for _, words := range sentencesOfWords(t) {
		if !words.MatchString(all.String()) {
			t.Errorf("the table has no row for %q", words)
		}
	}
}

// sentencesOfWords returns a pattern for each text of at least three words in the file of
// the sentences.
func sentencesOfWords(t *testing.T) (all []*regexp.Regexp) {
	file, err := parser.ParseFile(token.NewFileSet(), "words/sentences.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if text, ok := n.(*ast.BasicLit); ok && text.Kind == token.STRING && strings.Count(text.Value, " ") >= 3 {
			value, err := strconv.Unquote(text.Value)
			if err != nil {
				t.Fatal(err)
			}
			parts := regexp.MustCompile(`%[sd]`).Split(strings.TrimSpace(value), -1)
			for i := range parts {
				parts[i] = regexp.QuoteMeta(parts[i])
			}
			all = append(all, regexp.MustCompile(strings.Join(parts, "[^.\n]*")))
		}
		return true
	})
	if len(all) < 30 {
		t.Fatalf("only %d sentences", len(all))
	}
	return all
}
