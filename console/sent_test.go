package console_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/deliver"
)

// TestBodyIsChosenPreviewedAndShown adds a webhook with a message for Slack, previews an
// expression on the newest feedback and on the sample, and finds what was sent at the
// attempt.
func TestBodyIsChosenPreviewedAndShown(t *testing.T) {
	t.Parallel()
	got := make(chan string, 10)
	r := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got <- r.Header.Get("Content-Type") }))
	t.Cleanup(r.Close)
	v := newVisit(t, relay.Config{Egress: deliver.Egress{Allow: []string{"127.0.0.1"}}})
	v.open("/add")
	v.submit("add", url.Values{"name": {"chat"}, "url": {r.URL}, "sent": {"slack"}, "go": {"preview"}})
	v.says("Of the sample", `"blocks": [`, "New feedback: bug")
	v.submit("add", url.Values{"go": {"secret"}, "events": {"feedback.created", "webhook.failing"}})
	v.submit("add", url.Values{"go": {"test"}})
	v.says(`"blocks": [`) // in the request that the test sent
	v.submit("add", url.Values{"go": {"save"}})
	w, _ := v.relay.Webhook("chat")
	if w.Body != "slack" || !slices.Equal(w.Events, []event.Type{event.Created, event.WebhookFailing}) {
		t.Fatalf("it was added with body %q and events %v", w.Body, w.Events)
	}
	id := v.accept("fb_1", `"does nothing"`)
	v.until("/events/"+id.String(), "200 OK")
	v.says("New feedback: bug", "Send the same request with curl")
	if !strings.Contains(v.page, "blocks&#34;") {
		t.Error("the curl line does not send what was sent")
	}

	v.open("/webhooks/chat/settings")
	v.submit("settings", url.Values{"sent": {"own"}, "body": {`{"text": "rated " + data.context.pageUrl}`}, "go": {"preview"}})
	v.says("Of the newest feedback, "+id.String(), "no such overload", "Of the sample", `"text": "rated /dashboard/reports"`)
	if w, _ := v.relay.Webhook("chat"); w.Body != "slack" {
		t.Fatalf("a preview has changed the body to %q", w.Body)
	}
	v.submit("settings", url.Values{"sent": {"own"}, "body": {`{"text": foo}`}, "go": {"preview"}})
	v.says("At character 10: undeclared reference to 'foo'.")
	v.open("/webhooks/chat/settings")
	v.post("settings", url.Values{"sent": {"own"}, "body": {`{"text": `}}, http.StatusUnprocessableEntity)
	v.says("the end of the expression")
	v.open("/webhooks/chat/settings")
	v.post("settings", url.Values{"notify": {"nobody"}}, http.StatusUnprocessableEntity)
	v.says("is no e-mail address")
	v.open("/webhooks/chat/settings")
	v.submit("settings", url.Values{"sent": {"own"}, "body": {`"text of " + data.message`}, "notify": {"ada@example.com\nbob@example.com"}})
	w, _ = v.relay.Webhook("chat")
	if w.Body != `"text of " + data.message` || !slices.Equal(w.Notify, []string{"ada@example.com", "bob@example.com"}) ||
		!slices.Equal(w.Events, []event.Type{event.Created, event.WebhookFailing}) {
		t.Errorf("saved are body %q, owners %v and events %v", w.Body, w.Notify, w.Events)
	}
	v.open("/webhooks/chat/settings")
	v.submit("settings", url.Values{"sent": {""}})
	if w, _ := v.relay.Webhook("chat"); w.Body != "" {
		t.Errorf("the document is chosen, and the body is %q", w.Body)
	}
}
