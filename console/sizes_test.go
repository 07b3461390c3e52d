//go:build !race

package console_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/deliver"
)

// filled returns the data of a document that has as many bytes as the longest event, from
// texts that are repeated between a begin and an end.
func filled(begin, repeated, end string) string {
	const around = len(`{"event":"feedback.created","timestamp":"2026-01-07T15:30:00Z","data":}`)
	room := event.MaxDocument - around - len(begin) - len(end)
	return begin + strings.Repeat(repeated, room/len(repeated)) + end
}

// TestPagesStaySmall: with 200 webhooks, and the largest documents and answers there can be,
// no page has more than 100 KiB or takes longer than 200 ms. What a page cuts off is whole
// at the address that it gives.
func TestPagesStaySmall(t *testing.T) {
	const webhooks = 200
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for i := range 20 {
			w.Header().Set(fmt.Sprintf("X-Long-%d", i), strings.Repeat("'\"<&", 150))
		}
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = w.Write([]byte(strings.Repeat("'", 20<<10)))
	}))
	t.Cleanup(hook.Close)
	c := relay.Config{Egress: deliver.Egress{Allow: []string{"127.0.0.1"}}}
	for i := range webhooks {
		types := []event.Type{event.Created}
		if i < 20 {
			types = nil // updates as well
		}
		c.Webhooks = append(c.Webhooks, relay.WebhookConfig{
			Events: types,
			Name:   fmt.Sprintf("a-webhook-with-the-longest-name-that-there-can-be-%013d", i), URL: hook.URL + "/" + strings.Repeat("a", 100), Secret: "s",
			Retry: []time.Duration{time.Hour}, Header: http.Header{"X-Team": {strings.Repeat("'", 1000)}},
		})
	}
	v := newVisit(t, c)
	feedback := func(id, project string) queue.FeedbackID { return queue.FeedbackID{Project: project, ID: id} }
	facts := fmt.Sprintf(`"category":%q,"rating":1,"status":%[1]q,"context":{"pageUrl":%[1]q,"referrer":%[1]q,"browser":%[1]q}`, strings.Repeat("'", 1000))
	data := map[string]string{
		"fb_message":  filled(`{"id":"fb_message","message":"`, "'", `",`+facts+`}`),
		"fb_lines":    filled(`{"id":"fb_lines","message":"`, `<\n`, `"}`),
		"fb_metadata": filled(`{"id":"fb_metadata","message":"many","metadata":{`+facts, `,"a":"<"`, `}}`), // the same name: the relay does not read it again
		"fb_deep":     filled(`{"id":"fb_deep","message":"deep","metadata":{"a":`+strings.Repeat(`[`, 60), `"'",`, `1`+strings.Repeat(`]`, 60)+`}}`),
		"fb_further":  filled(`{"id":"fb_further","message":"further","context":{"x":"`, "&", `"},"y":"<"}`),
	}
	events := make(map[string]queue.EventID)
	for id, body := range data {
		events[id] = v.said(feedback(id, "p"), event.Created, queue.EventID{}, body)
	}
	for i := range 60 {
		body := fmt.Sprintf(`{"id":"fb_updated","message":"%s",%s,"metadata":{%s"z":%d}}`, strings.Repeat("'", 2000), facts, strings.Repeat(fmt.Sprintf(`"%s%d":"%s",`, strings.Repeat("<", 60), i, strings.Repeat("&", 200)), 10), i)
		typ := event.Updated
		if i == 0 {
			typ = event.Created
		}
		events["fb_updated"] = v.said(feedback("fb_updated", "p"), typ, events["fb_updated"], body)
	}
	for i := range 60 {
		if err := v.relay.Queue().KeepCaught(t.Context(), queue.Caught{At: time.Now().Add(time.Duration(i-60) * time.Second), Body: []byte(`{"event":"feedback.created","timestamp":"2026-01-07T15:30:00Z","data":` + data["fb_message"] + `}`)}); err != nil {
			t.Fatal(err)
		}
	}
	first := "/webhooks/" + c.Webhooks[0].Name
	// Attempts that are made meanwhile would take a part of the processor.
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var retrying, pending int64
		for _, w := range v.relay.Webhooks() {
			retrying, pending = retrying+w.Counts.Retrying, pending+w.Counts.Pending
		}
		if pending == 0 && retrying > 0 || time.Now().After(end) {
			break // what does not answer is tried one at a time, so some wait longer
		}
	}
	v.until("/events/"+events["fb_message"].String(), "500 Internal Server Error")

	var paths []string
	seen := make(map[string]bool)
	add := func(path string) {
		if !seen[path] {
			seen[path] = true
			paths = append(paths, path)
		}
	}
	for _, path := range []string{
		"/", "/feedback", "/feedback?q=many", "/events", "/events?webhook=" + c.Webhooks[0].Name, "/events?state=retrying", "/events/caught", "/webhooks", first, first + "/charts?span=30d", first + "/settings",
		first + "/recover?span=30d", "/resend/new?query=" + url.QueryEscape("state=retrying"), "/activity", "/add",
	} {
		add(path)
	}
	for id, e := range events {
		add("/feedback/" + id + "?project=p")
		add("/events/" + e.String())
	}
	whole := regexp.MustCompile(`href="((?:\.\./)*)([^"]*(?:/document|/request|/answer|/curl|whole=[^"]*))"`)
	pages := regexp.MustCompile(`href="(?:\./|(?:\.\./)*)([^"]*(?:page=[0-9]+|from=[0-9]+|cursor=[^"]*))"`)
	texts := make(map[string]bool)
	for i := 0; i < len(paths) && i < 60; i++ { // it grows with the pages of lists
		least := time.Hour
		for range 3 { // the machine may be busy: the best of a few counts
			began, used := time.Now(), processorTime(t)
			v.open(paths[i])
			if least = min(least, time.Since(began), processorTime(t)-used); least < 200*time.Millisecond {
				break
			}
		}
		t.Logf("%-60.60s %6d bytes in %s", paths[i], len(v.page), least.Round(time.Microsecond))
		if len(v.page) > 100<<10 || least > 200*time.Millisecond {
			t.Errorf("%s has %d bytes and took %s", paths[i], len(v.page), least)
		}
		for _, link := range whole.FindAllStringSubmatch(v.page, -1) {
			texts["/"+link[2]] = true
		}
		for _, link := range pages.FindAllStringSubmatch(v.page, -1) {
			add("/" + strings.ReplaceAll(link[1], "&amp;", "&"))
		}
	}
	v.open("/feedback/fb_message?project=p")
	v.says("See the whole text")
	document := "/events/" + events["fb_message"].String() + "/document"
	if !texts[document] {
		t.Errorf("no page leads to %s, but to %d others", document, len(texts))
	}
	if v.open(document); !strings.HasSuffix(v.page, data["fb_message"]+"}") || len(v.page) < event.MaxDocument-10 || v.head.Get("Content-Type") != "text/plain; charset=utf-8" || v.head.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("the document has %d bytes and the headers %v", len(v.page), v.head)
	}
	for part, want := range map[string]string{"request": data["fb_message"], "answer": strings.Repeat("'", 16<<10), "curl": "curl -X POST"} {
		found := false
		for path := range texts {
			if strings.HasPrefix(path, "/deliveries/") && strings.HasSuffix(path, "/"+part) {
				v.open(path)
				found = found || strings.Contains(v.page, want)
			}
		}
		if !found {
			t.Errorf("no page leads to a whole %s", part)
		}
	}
	for path := range texts {
		if strings.Contains(path, "whole=") {
			if v.open(path); len(v.page) < event.MaxDocument-10 {
				t.Errorf("%s has %d bytes", path, len(v.page))
			}
		}
	}
}
