package console_test

import (
	"fmt"
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

// TestListsAreFiltered: every filter of the lists, alone and together.
func TestListsAreFiltered(t *testing.T) {
	t.Parallel()
	var good, bad atomic.Int64
	good.Store(204)
	bad.Store(503)
	v := newVisit(t, relay.Config{Webhooks: []relay.WebhookConfig{
		{Name: "crm", URL: receiver(t, &good).URL}, {Name: "chat", URL: receiver(t, &bad).URL, Retry: []time.Duration{time.Hour}},
	}})
	a := v.said(queue.FeedbackID{Project: "p", ID: "fb_a"}, event.Created, queue.EventID{}, `{"id":"fb_a","message":"Crème brûlée\nfails","category":"bug","rating":1,"status":"new","context":{"browser":"Firefox"},"metadata":{"plan":"pro"}}`)
	b := v.said(queue.FeedbackID{Project: "q", ID: "fb_b"}, event.Created, queue.EventID{}, `{"id":"fb_b","message":"nice","category":"praise","rating":5,"status":"new"}`)
	done := v.said(queue.FeedbackID{Project: "p", ID: "fb_a"}, event.Updated, a, `{"id":"fb_a","message":"Crème brûlée\nfails","category":"bug","rating":2,"status":"done","metadata":{"plan":"pro"}}`)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		crm, _ := v.relay.Webhook("crm")
		chat, _ := v.relay.Webhook("chat")
		if crm.Counts.Delivered == 3 && chat.Counts.Retrying == 3 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("crm %+v, chat %+v", crm.Counts, chat.Counts)
		}
	}
	tomorrow := time.Now().UTC().AddDate(0, 0, 1).Format(time.DateOnly)
	today := time.Now().UTC().Format(time.DateOnly)
	for query, want := range map[string][]queue.EventID{
		"events?":                                   {a, b, done},
		"feedback?":                                 {b, done},
		"feedback?status=new":                       {b},
		"feedback?rating=1-2":                       {done},
		"feedback?q=creme+brulee+FAILS":             {done},
		"events?project=p":                          {a, done},
		"events?category=bug&rating=1":              {a},
		"events?rating=4-5":                         {b},
		"events?q=firefox":                          {},
		"events?q=pro":                              {a, done},
		"events?webhook=crm":                        {a, b, done},
		"events?webhook=crm&project=q":              {b},
		"events?webhook=crm&category=bug&q=brulee":  {a, done},
		"events?answer=503":                         {a, b, done},
		"events?answer=5xx&webhook=crm":             {},
		"events?answer=2xx&project=q":               {b},
		"events?answer=none":                        {},
		"events?state=retrying&feedback=fb_b":       {b},
		"events?state=delivered&rating=2":           {done},
		"events?since=1h":                           {a, b, done},
		"events?until=1h":                           {},
		"events?since=" + tomorrow:                  {},
		"events?until=" + today + "&since=" + today: {a, b, done},
		"events?webhook=crm&until=1h":               {},
	} {
		v.open("/" + query)
		var got []bool
		var wanted []bool
		for _, id := range []queue.EventID{a, b, done} {
			got = append(got, strings.Contains(v.page, "events/"+id.String()))
			found := false
			for _, w := range want {
				found = found || w == id
			}
			wanted = append(wanted, found)
		}
		if fmt.Sprint(got) != fmt.Sprint(wanted) {
			t.Errorf("%s finds %v, want %v: %s", query, got, wanted, v.text())
		}
	}
	v.open("/events?category=bug&rating=1-2&webhook=crm&view=Angry&q=brulee")
	v.says("Angry · Events · UserHero Relay", "category: bug", "rating: 1 or 2", "webhook: crm", "text: brulee")
	chip := regexp.MustCompile(`<a href="([^"]*)">category: bug`).FindStringSubmatch(v.page)
	if chip == nil || strings.Contains(chip[1], "category") || !strings.Contains(chip[1], "rating=1-2") || !strings.Contains(chip[1], "q=brulee") {
		t.Errorf("the chip leads to %q", chip)
	}
	v.send("GET", &url.URL{Path: mount + "/events", RawQuery: "since=soon"}, nil, 422)
}
