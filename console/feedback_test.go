package console_test

import (
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/text/language"
	"golang.org/x/text/language/display"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
)

// said accepts an event of a feedback. An update replaces the event before.
func (v *visit) said(id queue.FeedbackID, kind event.Type, replaces queue.EventID, data string) queue.EventID {
	v.t.Helper()
	receipt, err := v.relay.Accept(v.t.Context(), queue.Entry{
		Type: string(kind), Feedback: id, Replaces: replaces, Body: []byte(`{"event":"` + string(kind) + `","timestamp":"2026-01-07T15:30:00Z","data":` + data + `}`),
	})
	if err != nil {
		v.t.Fatal(err)
	}
	return receipt.Event.ID
}

func TestFeedbackHasAPage(t *testing.T) {
	t.Parallel()
	var status, refuses atomic.Int64
	status.Store(204)
	refuses.Store(500)
	good, bad := receiver(t, &status), receiver(t, &refuses)
	v := newVisit(t, relay.Config{Webhooks: []relay.WebhookConfig{
		{Name: "crm", URL: good.URL}, {Name: "broken", URL: bad.URL, Retry: []time.Duration{}},
	}})
	id := queue.FeedbackID{Project: "proj_a", ID: "fb_1"}
	const before = `{"id":"fb_1","projectId":"proj_a","widgetId":"w_default","message":"The export\nis <b>broken</b>","category":"bug","rating":2,"status":"new",` +
		`"screenshotUrl":"https://shots.example.com:8443/a;b.png","context":{"pageUrl":"/reports","browser":"Chrome","browserVersion":"120","os":"macOS","deviceType":"desktop",` +
		`"viewport":{"width":1920,"height":1080},"country":"CI","theme":"dark"},"metadata":{"plan":"pro","seats":5,"owner":{"name":"Ada"}},"build":"7f3"}`
	first := v.said(id, event.Created, queue.EventID{}, before)
	v.until("/feedback/fb_1", "Failed after 1 attempt")
	v.until("/feedback/fb_1", "Delivered")
	v.says("The export is <b>broken</b> · UserHero Relay", "The export is <b>broken</b>", "new", "Chrome 120 on macOS, desktop",
		"1920 × 1080 pixels", "Côte d’Ivoire", "w_default", "proj_a", "/reports", "plan pro", "seats 5", "owner.name Ada", "build 7f3", "context.theme dark")
	for _, markup := range []string{`<h1 class="quote" dir="auto">The export` + "\n", `aria-label="2 of 5 stars">★★☆☆☆<`} {
		if !strings.Contains(v.page, markup) {
			t.Errorf("the page has no %s: %s", markup, v.page)
		}
	}
	if failed, delivered := strings.Index(v.page, "Failed after"), strings.Index(v.page, ">Delivered<"); failed < 0 || failed > delivered {
		t.Errorf("failed deliveries do not come first: %d, %d", failed, delivered)
	}

	// The picture is loaded only if somebody asks for it, and only from its host.
	if policy := v.head.Get("Content-Security-Policy"); strings.Contains(v.page, "<img") || policy != "" {
		t.Errorf("the picture is loaded by itself, with the policy %q", policy)
	}
	v.open("/feedback/fb_1?project=proj_a&picture=1")
	if policy := v.head.Get("Content-Security-Policy"); !strings.Contains(v.page, `<img src="https://shots.example.com:8443/a;b.png"`) ||
		!strings.Contains(policy, "img-src 'self' https://shots.example.com:8443; ") || !strings.HasPrefix(policy, "default-src 'none'; script-src 'self'; ") {
		t.Errorf("the policy is %q: %s", policy, v.page)
	}

	// An update shows what it changed.
	second := v.said(id, event.Updated, first, strings.NewReplacer(`"new"`, `"resolved"`, `"seats":5,`, ``, `"build":"7f3"`, `"build":"7f3","answer":"done"`).Replace(before))
	v.open("/feedback/fb_1?project=proj_a")
	v.says("resolved", "status new → resolved", "metadata.seats 5 removed", "answer done", "Created", "Updated")
	for _, e := range []queue.EventID{first, second} {
		if !strings.Contains(v.page, "/events/"+e.String()+`"`) {
			t.Errorf("the history has no link to %s", e)
		}
	}
	v.submit("/redeliver", nil)
	v.says("Queued again.")
	if v.at.Path != mount+"/feedback/fb_1" || v.at.Query().Get("project") != "proj_a" {
		t.Errorf("redelivering leads to %s", v.at)
	}

	// The same id in another project is another feedback.
	v.said(queue.FeedbackID{Project: "proj_b", ID: "fb_1"}, event.Created, queue.EventID{}, `{"id":"fb_1","projectId":"proj_b","message":"`+strings.Repeat("long ", 400)+`"}`)
	v.send(http.MethodGet, &url.URL{Path: mount + "/feedback/fb_1"}, nil, http.StatusConflict)
	v.says("proj_a, proj_b")
	v.open("/feedback/fb_1?project=proj_b")
	v.says("Show the rest of the message")
	v.send(http.MethodGet, &url.URL{Path: mount + "/feedback/fb_2"}, nil, http.StatusNotFound)
	v.send(http.MethodGet, &url.URL{Path: mount + "/feedback/fb_1", RawQuery: "project=proj_c"}, nil, http.StatusNotFound)
	v.open("/events")
	if !strings.Contains(v.page, `feedback/fb_1?project=proj_a"`) || !strings.Contains(v.page, `feedback/fb_1?project=proj_b"`) {
		t.Error("the list does not link to the pages of feedback")
	}
}

// TestPolicyNamesNoStrangeHost: an address cannot add to the policy.
func TestPolicyNamesNoStrangeHost(t *testing.T) {
	t.Parallel()
	v := newVisit(t, relay.Config{})
	v.said(queue.FeedbackID{ID: "fb_1"}, event.Created, queue.EventID{}, `{"id":"fb_1","message":"x","screenshotUrl":"https://a;script-src *;b/x"}`)
	v.said(queue.FeedbackID{ID: "fb_2"}, event.Created, queue.EventID{}, `{"id":"fb_2","message":"x","screenshotUrl":"javascript:alert(1)"}`)
	for _, id := range []string{"fb_1", "fb_2"} {
		v.open("/feedback/" + id + "?picture=1")
		if policy := v.head.Get("Content-Security-Policy"); policy != "" || strings.Contains(v.page, "<img") {
			t.Errorf("%s: the policy is %q", id, policy)
		}
	}
}

// TestCountriesAreThoseOfCLDR: the list is that of the library, which is too large to
// be built in.
func TestCountriesAreThoseOfCLDR(t *testing.T) {
	t.Parallel()
	list, err := os.ReadFile("countries.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(list)) {
		code, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		region, err := language.ParseRegion(code)
		if want := display.English.Regions().Name(region); err != nil || want != name {
			t.Errorf("%s is %q, want %q (%v)", code, name, want, err)
		}
	}
}
