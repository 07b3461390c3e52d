package console

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/queue"
)

const (
	// eventsPerPage is how many rows a page has.
	eventsPerPage = 50
	// searchTime bounds the search for one page. A link continues the search.
	searchTime = 400 * time.Millisecond
	// mostChoices is how many webhooks a list offers. With more, people type the name.
	mostChoices = 100
)

// eventsPage is the list of events.
type eventsPage struct {
	Query    eventsQuery
	Webhooks []choice // empty if there are too many
	States   []choice
	Rows     []eventRow
	Next     string // address of the next page; empty at the end
	Searched string // is shown if the search is not complete
	First    bool   // the first page, which is kept up to date
	Any      bool   // the relay has events
	News     news
	Submit   string
}

// choice is one of a list to choose from.
type choice struct {
	Value, Name string
	Chosen      bool
}

// eventsQuery is the query in the address of the list.
type eventsQuery struct{ Search, Type, Webhook, State, Cursor string }

// address returns the address of the list with this query.
func (q eventsQuery) address() string { return "events?" + q.values().Encode() }

func (q eventsQuery) values() url.Values {
	v := url.Values{}
	for name, value := range map[string]string{"q": q.Search, "type": q.Type, "webhook": q.Webhook, "state": q.State, "cursor": q.Cursor} {
		if value != "" {
			v.Set(name, value)
		}
	}
	return v
}

func (p pages) listEvents(r *http.Request) (any, error) {
	v := r.URL.Query()
	q := eventsQuery{
		Search: strings.TrimSpace(v.Get("q")), Type: v.Get("type"), Webhook: v.Get("webhook"), State: v.Get("state"), Cursor: v.Get("cursor"),
	}
	if to, ok := p.byAnyID(r, q.Search); ok {
		return to, nil
	}
	page := eventsPage{Query: q, First: q.Cursor == "", Any: p.relay.Stats().Events > 0, Submit: submitLine(r)}
	if all := p.relay.Webhooks(); len(all) <= mostChoices {
		for _, w := range all {
			page.Webhooks = append(page.Webhooks, choice{w.Name, w.Name, w.Name == q.Webhook})
		}
	}
	for _, state := range []string{api.StateDelivered, api.StateRetrying, api.StatePending, api.StateHeld, api.StateFailed} {
		page.States = append(page.States, choice{state, stateNames[state], state == q.State})
	}
	now := time.Now()
	page.News = newsOf(r, "rows", q.address())
	var err error
	var next string
	if q.Webhook != "" || q.State != "" {
		next, err = p.findDeliveries(r, q, &page, now)
	} else {
		next, err = p.findEvents(r, q, &page, now)
	}
	if err != nil {
		return nil, api.CursorProblem(err, q.Cursor)
	}
	if next != "" {
		further := q
		further.Cursor = next
		page.Next = further.address()
	}
	s := screen{Title: "Events", Area: "events", Page: page}
	if page.First {
		s.Live = []string{"accepted", "attempt"}
		s.Again = "events?" + pinned(q.values(), uptoOf(r), page.Rows).Encode()
	}
	return shown{name: "events.html", screen: s}, nil
}

// stateNames are the states of deliveries in a list of choices.
var stateNames = map[string]string{
	api.StateDelivered: "delivered", api.StateRetrying: "retrying", api.StatePending: "pending", api.StateHeld: "held", api.StateFailed: "failed",
}

// byAnyID leads to the event of an id, which is that of the event or of one of its
// deliveries.
func (p pages) byAnyID(r *http.Request, text string) (to seeOther, ok bool) {
	id, err := queue.ParseEventID(text)
	query := ""
	if err != nil {
		d, err := queue.ParseDeliveryID(text)
		if err != nil {
			return "", false
		}
		id, query = d.Event, "?delivery="+text
	}
	if _, err := p.queue.Event(r.Context(), id); err != nil {
		return "", false
	}
	return seeOther("events/" + id.String() + query), true
}

// findEvents fills the page with events. A search stops after searchTime.
func (p pages) findEvents(r *http.Request, q eventsQuery, page *eventsPage, now time.Time) (next string, err error) {
	query := queue.EventQuery{Type: q.Type, Limit: eventsPerPage, Cursor: q.Cursor, Until: uptoOf(r)}
	if strings.HasPrefix(q.Search, "fb_") && !strings.ContainsAny(q.Search, " \t") {
		query.FeedbackID = q.Search
	} else {
		query.Match = api.NewSearch(q.Search)
	}
	if page.News.Count, err = p.newEvents(r, query, uptoOf(r)); err != nil {
		return "", err
	}
	var events []queue.Event
	for end := now.Add(searchTime); ; {
		found, err := p.queue.Events(r.Context(), query)
		if err != nil {
			return "", err
		}
		events = append(events, found.Items...)
		query.Cursor = found.Next
		if found.Next == "" || len(events) >= eventsPerPage {
			break
		}
		if time.Now().After(end) {
			page.Searched = "The search is not complete."
			break
		}
		query.Limit = eventsPerPage - len(events)
	}
	page.Rows, err = p.eventRows(r, events, now)
	return query.Cursor, err
}

// findDeliveries fills the page with deliveries, of one webhook or in one state, and
// their events.
func (p pages) findDeliveries(r *http.Request, q eventsQuery, page *eventsPage, now time.Time) (next string, err error) {
	query := queue.DeliveryQuery{States: api.StoredStates(q.State), Limit: eventsPerPage, Cursor: q.Cursor, Until: uptoOf(r)}
	if q.Webhook != "" {
		w, err := p.webhookNamed(q.Webhook)
		if err != nil {
			return "", err
		}
		query.Webhook = w.ID
	}
	byID := p.webhooksByID()
	matches := api.NewSearch(q.Search)
	wanted := func(d queue.Delivery) bool {
		return (q.State == "" || p.relay.DeliveryState(d) == q.State) && (q.Type == "" || d.Type == q.Type)
	}
	if matches == nil {
		if page.News.Count, err = p.newDeliveries(r, query, uptoOf(r), wanted); err != nil {
			return "", err
		}
	}
	for end := now.Add(searchTime); ; {
		found, err := p.queue.Deliveries(r.Context(), query)
		if err != nil {
			return "", err
		}
		for _, d := range found.Items {
			if !wanted(d) {
				continue
			}
			if matches != nil {
				e, err := p.queue.Event(r.Context(), d.ID.Event)
				if err != nil && !errors.Is(err, queue.ErrNotFound) {
					return "", err
				}
				if !matches(e.Body) {
					continue
				}
			}
			row, err := p.rowOf(r, d, byID, now)
			if err != nil {
				return "", err
			}
			page.Rows = append(page.Rows, row)
		}
		query.Cursor = found.Next
		if found.Next == "" || len(page.Rows) > 0 && (q.Search == "" && q.Type == "" && q.State != api.StateHeld) {
			break
		}
		if len(page.Rows) >= eventsPerPage/2 {
			break
		}
		if time.Now().After(end) {
			page.Searched = "The search is not complete."
			break
		}
	}
	return query.Cursor, nil
}

// submitLine returns a command that submits feedback to this site.
func submitLine(r *http.Request) string {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return fmt.Sprintf("curl %s://%s/feedback \\\n  -H 'Content-Type: application/json' \\\n  -d '{\"message\":\"Hello from curl\",\"rating\":5}'", scheme, r.Host)
}

// caughtRow is one submission that a honeypot caught.
type caughtRow struct {
	At                time.Time
	Message, Document string
}

// listCaught shows what honeypots caught, because a browser may have filled in the
// field for a person.
func (p pages) listCaught(r *http.Request) (any, error) {
	all, err := p.queue.Caught(r.Context())
	if err != nil {
		return nil, err
	}
	rows := make([]caughtRow, 0, len(all))
	for _, c := range all {
		var document struct{ Data struct{ Message string } }
		_ = json.Unmarshal(c.Body, &document) // the document is shown as well
		rows = append(rows, caughtRow{At: c.At, Message: document.Data.Message, Document: string(c.Body)})
	}
	return shown{name: "caught.html", screen: screen{Title: "Caught by a honeypot", Area: "events", Page: rows}}, nil
}
