package console

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
)

const (
	// eventsPerPage bounds a page of the list.
	eventsPerPage = 50
	// searchTime bounds the search for one page. What is further back is one
	// click away.
	searchTime = 400 * time.Millisecond
	// mostChoices is how many webhooks are offered in a list; of more, the name
	// is typed.
	mostChoices = 100
	// excerpt is how many characters of a message a list shows.
	excerpt = 160
)

// eventsPage is the list of events.
type eventsPage struct {
	Query    eventsQuery
	Webhooks []choice // none where they are too many to choose from
	States   []choice
	Rows     []eventRow
	Next     string // the address of the next page; empty at the end
	Searched string // until when the search came, where it found little; empty else
	First    bool   // it is the first page, which is kept up to date
	Any      bool   // there are events at all
	News     news
	Submit   string
}

// eventsQuery is what the address of the list says.
type eventsQuery struct{ Search, Type, Webhook, State, Cursor string }

// address is the list's with this query.
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

// eventRow is an event in a list, with where its deliveries are.
type eventRow struct {
	ID, Feedback string
	Created      bool
	At           time.Time
	Message      string
	Category     string
	Status       string
	Rating       int
	Deliveries   []deliveryRow // in trouble first
	Arrivals     []arrival
	Only         string // the one delivery that is meant; empty where all are
}

// arrival says where a delivery of an event is, or several that are in one state.
type arrival struct {
	Webhook string // or how many webhooks
	Mark    mark
}

// mostArrivals is how many deliveries an event's row names; of more it says how
// many are in which state.
const mostArrivals = 3

// arrivalsOf are those of deliveries, which come in trouble first.
func arrivalsOf(deliveries []deliveryRow) (all []arrival) {
	for from := 0; from < len(deliveries); {
		to := from + 1
		if len(deliveries) > mostArrivals {
			for to < len(deliveries) && deliveries[to].State == deliveries[from].State {
				to++
			}
		}
		a := arrival{deliveries[from].Webhook, deliveries[from].Mark}
		if n := to - from; n > 1 {
			state := deliveries[from].State
			a = arrival{number(int64(n)) + " webhooks", mark{a.Mark.Kind, strings.ToUpper(state[:1]) + state[1:]}}
		}
		all = append(all, a)
		from = to
	}
	return all
}

// troubledFirst sorts deliveries by how much they want to be looked at.
func troubledFirst(deliveries []deliveryRow) {
	rank := []string{api.StateFailed, api.StateRetrying, api.StatePending, api.StateHeld, api.StateDelivered}
	slices.SortStableFunc(deliveries, func(a, b deliveryRow) int {
		return cmp.Compare(slices.Index(rank, a.State), slices.Index(rank, b.State))
	})
}

// deliveryRow is a delivery in a list.
type deliveryRow struct {
	ID, Event, Webhook string
	State              string
	Mark               mark
	Tries              int
	At                 time.Time // of the event's acceptance
	CanRedeliver       bool
}

// document is what a page shows of an event's body besides the whole.
type document struct {
	Data struct {
		Message       string `json:"message"`
		Category      string `json:"category"`
		Status        string `json:"status"`
		Rating        int    `json:"rating"`
		ScreenshotURL string `json:"screenshotUrl"`
		Context       struct {
			PageURL string `json:"pageUrl"`
		} `json:"context"`
	} `json:"data"`
}

func (p pages) eventRow(r *http.Request, e queue.Event, deliveries []queue.Delivery, byID map[queue.WebhookID]relay.WebhookStatus, now time.Time) eventRow {
	row := eventRow{ID: e.ID.String(), Feedback: e.Feedback.ID, Created: e.Type == string(event.Created), At: e.Created}
	var d document
	if json.Unmarshal(e.Body, &d) == nil { // what the relay stores is such a document
		row.Message = shorten(d.Data.Message, excerpt)
		row.Category, row.Status, row.Rating = d.Data.Category, d.Data.Status, d.Data.Rating
	}
	for _, d := range deliveries {
		row.Deliveries = append(row.Deliveries, p.deliveryRow(r, d, webhookOf(byID, d.ID.Webhook), now))
	}
	troubledFirst(row.Deliveries)
	row.Arrivals = arrivalsOf(row.Deliveries)
	return row
}

// rowOf is the row of one delivery, with its event.
func (p pages) rowOf(r *http.Request, d queue.Delivery, byID map[queue.WebhookID]relay.WebhookStatus, now time.Time) (eventRow, error) {
	e, err := p.queue.Event(r.Context(), d.ID.Event)
	if errors.Is(err, queue.ErrNotFound) { // retention came in between
		e, err = queue.Event{ID: d.ID.Event, Type: d.Type, Feedback: d.Feedback, Created: d.Created}, nil
	}
	row := p.eventRow(r, e, []queue.Delivery{d}, byID, now)
	row.Only = d.ID.String()
	return row, err
}

// shorten cuts a text to n characters, white space put together.
func shorten(text string, n int) string {
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > n {
		return string(runes[:n-1]) + "…"
	}
	return text
}

func webhookOf(byID map[queue.WebhookID]relay.WebhookStatus, id queue.WebhookID) *relay.WebhookStatus {
	if w, ok := byID[id]; ok {
		return &w
	}
	return nil
}

func (p pages) deliveryRow(r *http.Request, d queue.Delivery, w *relay.WebhookStatus, now time.Time) deliveryRow {
	state := p.relay.DeliveryState(d)
	row := deliveryRow{
		ID: d.ID.String(), Event: d.ID.Event.String(), Webhook: api.DeletedName(d.ID.Webhook), State: state,
		Mark: deliveryMark(d, state, w, api.UserOf(r), now), Tries: d.Attempts, At: d.Created, CanRedeliver: w != nil,
	}
	if w != nil {
		row.Webhook = w.Name
	}
	return row
}

func (p pages) webhooksByID() map[queue.WebhookID]relay.WebhookStatus {
	byID := make(map[queue.WebhookID]relay.WebhookStatus)
	for _, w := range p.relay.Webhooks() {
		byID[w.ID] = w
	}
	return byID
}

// eventRows are the rows of events with all their deliveries.
func (p pages) eventRows(r *http.Request, events []queue.Event, now time.Time) ([]eventRow, error) {
	byID := p.webhooksByID()
	rows := make([]eventRow, 0, len(events))
	for _, e := range events {
		deliveries, err := p.queue.EventDeliveries(r.Context(), e.ID)
		if err != nil && !errors.Is(err, queue.ErrNotFound) { // retention may have come in between
			return nil, err
		}
		rows = append(rows, p.eventRow(r, e, deliveries, byID, now))
	}
	return rows, nil
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

// stateNames are the states of deliveries as a list to choose from has them.
var stateNames = map[string]string{
	api.StateDelivered: "delivered", api.StateRetrying: "retrying", api.StatePending: "pending", api.StateHeld: "held", api.StateFailed: "failed",
}

// byAnyID leads to the one event that an id names: of the event, of one of its
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

// findEvents fills the page with events; a search goes back as far as its time
// lets it.
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
			page.Searched = "The search has not come to the end yet."
			break
		}
		query.Limit = eventsPerPage - len(events)
	}
	page.Rows, err = p.eventRows(r, events, now)
	return query.Cursor, err
}

// findDeliveries fills the page with the deliveries of one webhook, or in one
// state, and their events.
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
			page.Searched = "The search has not come to the end yet."
			break
		}
	}
	return query.Cursor, nil
}
