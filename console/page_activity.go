package console

import (
	"net/http"
	"net/url"
	"time"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/console/resend"
	"github.com/userhero/relay/console/words"
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
	Mark                       words.Mark
	What, Who, Webhook, Detail string
	There                      bool   // the webhook exists
	Event                      string // id of the event in the detail
	Resend                     string // id of the action on many deliveries
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
		row.Resend = resend.IDOf(a)
		switch row.Who {
		case api.UserOf(r):
			row.Who = "you"
		case "admin":
			row.Who = "the admin endpoint"
		case "relay":
			row.Who = "the relay"
		case relay.FromCaddyfile:
			row.Who = "the Caddyfile"
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
var activityMarks = map[string]words.Mark{
	"webhook added":       {Kind: "good", Text: "Webhook added"},
	"webhook changed":     {Kind: "none", Text: "Settings changed"},
	"webhook renamed":     {Kind: "none", Text: "Webhook renamed"},
	"webhook deleted":     {Kind: "bad", Text: "Webhook deleted"},
	"webhook enabled":     {Kind: "good", Text: "Resumed or enabled"},
	"webhook disabled":    {Kind: "hold", Text: "Paused"},
	"webhook in trouble":  {Kind: "wait", Text: "Attempts fail"},
	"webhook failing":     {Kind: "bad", Text: "Failing"},
	"webhook recovered":   {Kind: "good", Text: "Active again"},
	"secret rotated":      {Kind: "none", Text: "Secret changed"},
	"signing key rotated": {Kind: "none", Text: "Signing key changed"},
	"delivery requeued":   {Kind: "wait", Text: "One delivery queued again"},
	"deliveries requeued": {Kind: "wait", Text: "Deliveries queued again"},
	"resend began":        {Kind: "wait", Text: "Sending again began"},
	"resend ended":        {Kind: "none", Text: "Sending again ended"},
	"notice sent":         {Kind: "mail", Text: "E-mail"},
	"feedback erased":     {Kind: "bad", Text: "Feedback erased"},
}

func activityMark(a relay.Activity) words.Mark {
	m, ok := activityMarks[a.What]
	switch {
	case a.What == "webhook disabled" && a.Who == "relay": // by the receiver's 410
		m.Text = "Disabled"
		return m
	case ok:
		return m
	}
	return words.Mark{Kind: "none", Text: a.What}
}
