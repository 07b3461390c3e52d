package console_test

import (
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
)

// follow follows the link with an id on the present page.
func (v *visit) follow(id string) {
	v.t.Helper()
	for _, link := range regexp.MustCompile(`<a ([^>]*)>`).FindAllStringSubmatch(v.page, -1) {
		href := regexp.MustCompile(`href="([^"]*)"`).FindStringSubmatch(link[1])
		if href == nil || !strings.Contains(link[1], `id="`+id+`"`) {
			continue
		}
		to, err := v.at.Parse(html.UnescapeString(href[1]))
		if err != nil {
			v.t.Fatal(err)
		}
		v.send(http.MethodGet, to, nil, http.StatusOK)
		return
	}
	v.t.Fatalf("%s has no link %s: %s", v.at, id, v.page)
}

// explains checks that nobody needs another document for the page: it explains each word that
// is not in UserHero's documentation.
func (v *visit) explains() {
	v.t.Helper()
	text := v.text()
	for word, explained := range map[string]string{
		"README": "", "docs/": "", "CEL": "https://cel.dev", "Caddyfile": "whoever runs the relay", "ed25519": "https://www.standardwebhooks.com",
	} {
		if strings.Contains(text, word) && (explained == "" || !strings.Contains(strings.ToLower(v.page), explained)) {
			v.t.Errorf("%s says %s and does not explain it: %s", v.at, word, text)
		}
	}
}

// TestConsoleNeedsNoOtherDocument: somebody who has read UserHero's documentation of webhooks,
// but nothing about the relay, does all of this with the links and forms of the console: adds a webhook,
// tests, pauses, resumes and deletes it; chooses its projects, what is sent and who gets mails;
// previews; changes the secret; sets a signing key; exports feedback; erases one, and that of a
// person.
func TestConsoleNeedsNoOtherDocument(t *testing.T) {
	t.Parallel()
	var status atomic.Int64
	status.Store(204)
	hook := receiver(t, &status)
	v := newVisit(t, relay.Config{})
	v.open("/")
	v.says("Where should feedback go?", "URL of the receiver", "somebody sent feedback")
	v.explains()
	v.submit("/add", url.Values{"url": {hook.URL}, "name": {"crm"}, "go": {"secret"}})
	v.says("Copy it into the receiver now", "Node")
	v.explains()
	v.submit("/add", url.Values{"go": {"test"}})
	v.says("It works: the receiver answered 204")
	v.submit("/add", url.Values{"go": {"save"}})
	v.says("Webhook crm added.")
	v.open("/webhooks")
	v.follow("hook-crm")
	v.explains()
	v.says("No delivery is being retried")
	v.submit("/test", nil)
	v.says("It works: the receiver answered 204", "X-UserHero-Test: true")
	v.submit("/pause", nil)
	v.says("Paused.")
	v.submit("/enable", nil)
	v.says("Resumed.")

	v.follow("tab/settings")
	v.explains()
	v.says("One project id a line.", "A message for Slack", "One e-mail address a line.", "It is not shown again.")
	chosen := url.Values{"projects": {"proj_a\nproj_b"}, "notify": {"owner@example.com"}, "sent": {"slack"}}
	preview := url.Values{"go": {"preview"}}
	for name, values := range chosen {
		preview[name] = values
	}
	v.submit("/settings", preview)
	v.says("Of the sample", "New feedback: bug")
	v.submit("/settings", chosen)
	v.says("Settings saved.")
	if w, _ := v.relay.Webhook("crm"); strings.Join(w.Projects, " ") != "proj_a proj_b" || w.Body != "slack" || strings.Join(w.Notify, " ") != "owner@example.com" {
		t.Errorf("saved is %+v", w)
	}
	v.submit("/rotate", url.Values{"overlap": {"24h"}})
	v.says("Secret changed. The old secret also works for 24 hours.", "Copy it now. It is not shown again.")
	v.submit("/rotate-signing-key", url.Values{"overlap": {"0s"}})
	v.says("Key set.", "Public key")
	v.explains()

	say := func(id, metadata string) {
		v.said(queue.FeedbackID{Project: "proj_a", ID: id}, event.Created, queue.EventID{},
			`{"id":"`+id+`","projectId":"proj_a","message":"said in `+id+`","category":"bug","rating":2,"status":"new","metadata":`+metadata+`,"createdAt":"2026-01-07T15:30:00Z"}`)
	}
	say("fb_one", `{"userId":"user_1"}`)
	say("fb_two", `{"userId":"user_2","customer":42}`)
	say("fb_three", `{"userId":"user_2"}`)
	say("fb_four", `{"userId":"user_4","customer":42}`)
	say("fb_five", `{"userId":"user_5"}`)
	v.open("/feedback")
	v.explains()
	for _, export := range []struct{ id, kind, first string }{{"export-csv", "text/csv", "id,projectId"}, {"export-json", "application/x-ndjson", `{"id":"fb_five"`}} {
		v.open("/feedback?category=bug&rating=1-2&project=proj_a&status=new")
		v.follow(export.id)
		if !strings.HasPrefix(v.head.Get("Content-Type"), export.kind) || !strings.HasPrefix(v.page, export.first) || strings.Count(v.page, "said in") != 5 {
			t.Errorf("%s: %s %s", v.at, v.head.Get("Content-Type"), v.page)
		}
		v.open("/feedback?rating=3")
		v.follow(export.id)
		if strings.Contains(v.page, "fb_") {
			t.Errorf("%s: %s", v.at, v.page)
		}
	}
	v.open("/feedback/fb_one")
	v.follow("erase")
	v.explains()
	v.says("Erase this feedback?", "1 feedback would be erased, with 1 event", "cannot be brought back")
	v.submit("/erase", nil)
	v.says("Erased: 1 feedback with 1 event.")
	v.follow("erase-person")
	v.explains()
	v.says("Erase the feedback of one person", "Count first")
	for _, person := range []struct{ member, value, would, left string }{
		{"userId", `nobody" || true || "`, "No feedback has this value.", "fb_two fb_three fb_four fb_five"},
		{"userId", "user_2", "2 feedbacks would be erased", "fb_four fb_five"},
		{"customer", "42", "1 feedback would be erased", "fb_five"},
	} {
		v.open("/erase?" + url.Values{"member": {person.member}, "value": {person.value}}.Encode())
		v.says(person.would)
		if strings.Contains(v.page, `method="post"`) {
			v.submit("/erase", nil)
			v.says("Erased: ")
		}
		var left []string
		for _, id := range []string{"fb_one", "fb_two", "fb_three", "fb_four", "fb_five"} {
			if _, err := v.relay.Queue().Latest(t.Context(), queue.FeedbackID{Project: "proj_a", ID: id}); err == nil {
				left = append(left, id)
			}
		}
		if got := strings.Join(left, " "); got != person.left {
			t.Errorf("after %s %s: %s is left, want %s", person.member, person.value, got, person.left)
		}
	}
	v.open("/activity")
	v.says("erased")

	v.open("/webhooks/crm")
	v.follow("delete")
	v.says("Delete the webhook crm?", "This cannot be undone.")
	v.submit("/delete", nil)
	v.says("Webhook crm deleted.")
	if _, exists := v.relay.Webhook("crm"); exists {
		t.Error("the webhook is still there")
	}
}

// TestPagesOfWhatTheCaddyfileHasExplainThemselves: settings that the console cannot change say
// who can.
func TestPagesOfWhatTheCaddyfileHasExplainThemselves(t *testing.T) {
	t.Parallel()
	v := newVisit(t, relay.Config{Webhooks: []relay.WebhookConfig{{Name: "crm", URL: "http://127.0.0.1:9/", Retry: []time.Duration{}}}})
	v.open("/webhooks/crm/settings")
	v.says("the relay’s configuration file, the Caddyfile")
	v.explains()
}
