package console

import (
	"net/http"
	"net/url"
	"time"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
)

// activityPerPage is how many rows a page has.
const activityPerPage = 50

// activityPage is the activity log.
type activityPage struct {
	Rows  []activityRow
	Next  string // address of the next page; empty at the end
	First bool
	News  news
}

// activityRow is one line of the log.
type activityRow struct {
	ID                         string
	At                         time.Time
	Mark                       mark
	What, Who, Webhook, Detail string
	There                      bool   // the webhook exists
	Event                      string // id of the event in the detail
}

func (p pages) listActivity(r *http.Request) (any, error) {
	cursor := r.URL.Query().Get("cursor")
	found, err := p.relay.Activities(r.Context(), activityPerPage, cursor)
	if err != nil {
		return nil, api.CursorProblem(err, cursor)
	}
	page := activityPage{First: cursor == "", News: newsOf(r, "rows", "activity")}
	if found.Next != "" {
		page.Next = "activity?cursor=" + url.QueryEscape(found.Next)
	}
	for _, a := range found.Items {
		_, there := p.relay.Webhook(a.Webhook)
		row := activityRow{ID: a.ID, At: a.At, Mark: activityMark(a), Who: a.Who, Webhook: a.Webhook, Detail: a.Detail, There: there}
		if id, err := queue.ParseDeliveryID(a.Detail); err == nil {
			row.Event = id.Event.String()
		}
		switch row.Who {
		case api.UserOf(r):
			row.Who = "you"
		case "admin":
			row.Who = "the admin endpoint"
		case "relay":
			row.Who = "the relay"
		}
		page.Rows = append(page.Rows, row)
	}
	s := screen{Title: "Activity", Area: "activity", Page: page}
	if page.First {
		s.Live = []string{"activity"}
	}
	return shown{name: "activity.html", screen: s}, nil
}

// activityMarks are the words of the log, as people read them.
var activityMarks = map[string]mark{
	"webhook added":       {"good", "Webhook added"},
	"webhook changed":     {"none", "Settings changed"},
	"webhook deleted":     {"bad", "Webhook deleted"},
	"webhook enabled":     {"good", "Resumed or enabled"},
	"webhook disabled":    {"hold", "Paused or disabled"},
	"webhook failing":     {"bad", "Failing"},
	"webhook recovered":   {"good", "Active again"},
	"secret rotated":      {"none", "Secret changed"},
	"delivery requeued":   {"wait", "One delivery queued again"},
	"deliveries requeued": {"wait", "Deliveries queued again"},
	"notice sent":         {"mail", "E-mail"},
}

func activityMark(a relay.Activity) mark {
	if m, ok := activityMarks[a.What]; ok {
		return m
	}
	return mark{"none", a.What}
}
