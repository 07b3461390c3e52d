package console

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/console/words"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
)

const (
	// eventsPerPage is how many rows a page has.
	eventsPerPage = 40
	// searchTime bounds the search for one page, with what an engine takes for one call. A
	// link continues the search; with script, the page follows it.
	searchTime = 60 * time.Millisecond
	// mostChoices is how many webhooks a list offers. With more, people type the name.
	mostChoices = 100
	// suggestedFrom is how many of the newest events the suggestions are taken from.
	suggestedFrom = 200
)

// eventsPage is a list of events, or of feedback: the newest event of each.
type eventsPage struct {
	Query       eventsQuery
	Chips       []chip
	Webhooks    []choice // empty if there are too many
	States      []choice
	Ratings     []choice
	Suggestions suggestions
	Rows        []eventRow
	Next        string // address of the next page; empty at the end
	Searched    string // how far the search has come, if it is not complete
	First       bool   // the first page, which is kept up to date
	Any         bool   // the relay has events
	News        news
	Submit      string
	Exports     []export
	Matches     string // the query of what can be sent again; empty if the rows are events
}

// chip is a filter that is set, with the address of the list without it.
type chip struct{ Text, Without string }

// choice is one of a list to choose from.
type choice struct {
	Value, Name string
	Chosen      bool
}

// suggestions are values of the newest events, for fields of the form.
type suggestions struct{ Projects, Categories, Statuses []string }

func (p pages) listEvents(r *http.Request) (any, error) { return p.list(r, false) }

func (p pages) listFeedback(r *http.Request) (any, error) { return p.list(r, true) }

func (p pages) list(r *http.Request, feedback bool) (any, error) {
	q := queryOf(r.URL.Query(), feedback)
	if to, ok := p.byAnyID(r, q.Search); ok {
		return to, nil
	}
	page := eventsPage{Query: q, Chips: q.chips(), First: q.Cursor == "", Any: p.relay.Scoped() || p.relay.Stats().Events > 0, Submit: submitLine(r)}
	if all := p.relay.Webhooks(); len(all) <= mostChoices {
		for _, w := range all {
			page.Webhooks = append(page.Webhooks, choice{w.Name, w.Name, w.Name == q.Webhook})
		}
	}
	for _, state := range []string{api.StateDelivered, api.StateRetrying, api.StatePending, api.StateHeld, api.StateFailed} {
		page.States = append(page.States, choice{state, state, state == q.State})
	}
	for _, rating := range ratings {
		page.Ratings = append(page.Ratings, choice{rating, ratingWords(rating), rating == q.Rating})
	}
	now := time.Now()
	page.News = newsOf(r, "rows", q.address())
	var err error
	if page.Suggestions, err = p.suggest(r); err != nil {
		return nil, err
	}
	var next string
	search := eventSearch{pages: p, r: r, query: q, page: &page, now: now}
	if search.since, search.until, err = q.span(now); err != nil {
		return nil, err
	}
	if q.ofDeliveries() {
		all := q
		all.Cursor, all.Seen, all.View = "", 0, ""
		page.Matches = all.values().Encode()
		next, err = search.deliveries()
	} else {
		next, err = search.events()
	}
	if err != nil {
		return nil, api.CursorProblem(err, q.Cursor)
	}
	if next != "" {
		further := q
		further.Cursor, further.Seen = next, q.Seen+search.looked
		page.Next = further.address()
	}
	title, area := "Events", "events"
	if feedback {
		title, area = "Feedback", "feedback"
		page.Exports = q.exports(search.since, search.until)
	}
	out := p.outcome(r)
	s := screen{Title: strings.TrimPrefix(q.View+" · "+title, " · "), Area: area, Page: page, Flash: out.Flash}
	if page.First && page.Searched == "" {
		s.Live = []string{"accepted", "attempt"}
		s.Again = q.path() + "?" + pinned(q.values(), uptoOf(r), page.Rows).Encode()
	}
	return shown{name: "events.html", status: out.Status, screen: s}, nil
}

// suggest returns values that occur in the newest events.
func (p pages) suggest(r *http.Request) (s suggestions, err error) {
	found, err := p.queue.Events(r.Context(), queue.EventQuery{Limit: suggestedFrom})
	add := func(list *[]string, value string) {
		if value != "" && !slices.Contains(*list, value) {
			*list = append(*list, value)
		}
	}
	for _, e := range found.Items {
		add(&s.Projects, e.Feedback.Project)
		var d struct {
			Data struct{ Category, Status string } `json:"data"`
		}
		if json.Unmarshal(e.Body, &d) == nil {
			add(&s.Categories, shorten(d.Data.Category, 60))
			add(&s.Statuses, shorten(d.Data.Status, 60))
		}
	}
	for _, list := range []*[]string{&s.Projects, &s.Categories, &s.Statuses} {
		slices.Sort(*list)
		*list = (*list)[:min(len(*list), 50)]
	}
	return s, err
}

// byAnyID leads to the page of the feedback, the event or the delivery with this id.
func (p pages) byAnyID(r *http.Request, text string) (to seeOther, ok bool) {
	if strings.HasPrefix(text, "fb_") && event.IsID(text) {
		id, err := api.FindFeedback(r.Context(), p.queue, text, nil)
		if err == nil {
			return seeOther(feedbackAt(id)), true
		}
	}
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

// eventSearch fills a page with rows. It stops after searchTime.
type eventSearch struct {
	pages
	r            *http.Request
	query        eventsQuery
	page         *eventsPage
	now          time.Time
	since, until time.Time
	looked       int64 // documents that the filter has read
}

// match returns the filter by document, which counts what it reads; nil if every
// document matches.
func (s *eventSearch) match() func(body []byte) bool {
	matches := s.query.facts().Match(s.query.Search)
	if matches == nil {
		return nil
	}
	return func(body []byte) bool {
		s.looked++
		return matches(body)
	}
}

// upto returns the end of the time that is searched.
func (s *eventSearch) upto() time.Time {
	if upto := uptoOf(s.r); s.until.IsZero() || !upto.IsZero() && upto.Before(s.until) {
		return upto
	}
	return s.until
}

// paused notes how far the search has come; back is the time of the next event.
func (s *eventSearch) paused(back time.Time) {
	s.page.Searched = "The search is not complete."
	if n := s.query.Seen + s.looked; n > 0 {
		s.page.Searched = fmt.Sprintf("Looked through %s of %s.", words.Number(n), words.Counted(s.relay.Stats().Events, "event", "events"))
	}
	if !back.IsZero() {
		s.page.Searched += " Searched back to " + words.WhenOf(back, s.now).Absolute + "."
	}
}

// events fills the page with events.
func (s *eventSearch) events() (next string, err error) {
	q := s.query
	query := queue.EventQuery{Type: q.Type, Limit: eventsPerPage, Cursor: q.Cursor, Since: s.since, Until: s.upto(), FeedbackID: q.Feedback, ProjectID: q.Project}
	query.Match = s.match()
	if s.page.News.Count, err = s.newEvents(s.r, query, uptoOf(s.r)); err != nil {
		return "", err
	}
	s.looked = 0
	var events []queue.Event
	for {
		query.Limit = eventsPerPage - len(events)
		found, err := s.queue.Events(s.r.Context(), query)
		if err != nil {
			return "", err
		}
		for _, e := range found.Items {
			if q.ofFeedback {
				latest, err := s.queue.Latest(s.r.Context(), e.Feedback)
				if err != nil && !errors.Is(err, queue.ErrNotFound) {
					return "", err
				}
				if latest.ID != e.ID {
					continue
				}
			}
			events = append(events, e)
		}
		query.Cursor = found.Next
		if found.Next == "" || len(events) >= eventsPerPage {
			break
		}
		if time.Since(s.now) > searchTime {
			back := time.Time{}
			ahead, err := s.queue.Events(s.r.Context(), queue.EventQuery{Limit: 1, Cursor: found.Next})
			if err != nil {
				return "", err
			}
			if len(ahead.Items) > 0 {
				back = ahead.Items[0].Created
			}
			s.paused(back)
			break
		}
	}
	s.page.Rows, err = s.eventRows(s.r, events, s.now)
	return query.Cursor, err
}

// deliveries fills the page with deliveries and their events.
func (s *eventSearch) deliveries() (next string, err error) {
	q := s.query
	query := queue.DeliveryQuery{States: api.StoredStates(q.State), Cursor: q.Cursor, Since: s.since, Until: s.upto()}
	if q.Webhook != "" {
		w, err := s.webhookNamed(q.Webhook)
		if err != nil {
			return "", err
		}
		query.Webhook = w.ID
	}
	wanted := s.wanted()
	if s.page.News.Count, err = s.newDeliveries(s.r, query, uptoOf(s.r), func(d queue.Delivery) bool {
		ok, _ := wanted(d)
		return ok
	}); err != nil {
		return "", err
	}
	s.looked = 0
	byID := s.webhooksByID()
	for {
		query.Limit = eventsPerPage - len(s.page.Rows)
		found, err := s.queue.Deliveries(s.r.Context(), query)
		if err != nil {
			return "", err
		}
		for _, d := range found.Items {
			ok, err := wanted(d)
			if err != nil {
				return "", err
			}
			if !ok {
				continue
			}
			row, err := s.rowOf(s.r, d, byID, s.now)
			if err != nil {
				return "", err
			}
			row.Choose = !s.relay.ReadOnly()
			s.page.Rows = append(s.page.Rows, row)
		}
		query.Cursor = found.Next
		if found.Next == "" || len(s.page.Rows) >= eventsPerPage {
			break
		}
		if time.Since(s.now) > searchTime {
			back := time.Time{}
			ahead, err := s.queue.Deliveries(s.r.Context(), queue.DeliveryQuery{Limit: 1, Cursor: found.Next})
			if err != nil {
				return "", err
			}
			if len(ahead.Items) > 0 {
				back = ahead.Items[0].Created
			}
			s.paused(back)
			break
		}
	}
	return query.Cursor, nil
}

// wanted returns a function that reports whether a delivery matches the filters that the
// store cannot apply.
func (s *eventSearch) wanted() func(queue.Delivery) (bool, error) {
	q, matches := s.query, s.match()
	return func(d queue.Delivery) (bool, error) {
		if q.State != "" && s.relay.DeliveryState(d) != q.State || q.Type != "" && d.Type != q.Type ||
			q.Project != "" && d.Feedback.Project != q.Project || q.Feedback != "" && d.Feedback.ID != q.Feedback {
			return false, nil
		}
		if q.Answer != "" {
			attempts, err := s.queue.Attempts(s.r.Context(), d.ID)
			if err != nil && !errors.Is(err, queue.ErrNotFound) {
				return false, err
			}
			if len(attempts) == 0 || !answerMatches(q.Answer, attempts[len(attempts)-1]) {
				return false, nil
			}
		}
		if matches == nil {
			return true, nil
		}
		e, err := s.queue.Event(s.r.Context(), d.ID.Event)
		if errors.Is(err, queue.ErrNotFound) {
			return false, nil
		}
		return err == nil && matches(e.Body), err
	}
}

// answerMatches reports whether an attempt had such an answer: a status, a class of
// statuses such as 5xx, none, or the class of an error.
func answerMatches(answer string, a queue.Attempt) bool {
	status := fmt.Sprint(a.Status)
	switch {
	case a.Status == 0:
		return answer == "none" || answer == a.ErrorClass
	case len(answer) == 3 && strings.HasSuffix(answer, "xx"):
		return status[0] == answer[0]
	}
	return answer == status
}

// submitLine returns a command that submits feedback to this site.
func submitLine(r *http.Request) string {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return fmt.Sprintf("curl %s://%s/feedback \\\n  -H 'Content-Type: application/json' \\\n  -d '{\"message\":\"Hello from curl\",\"rating\":5}'", scheme, r.Host)
}

// caughtPerPage is how many rows the page of honeypots has.
const caughtPerPage = 20

// caughtPage is what honeypots caught, the newest first.
type caughtPage struct {
	Rows        []caughtRow
	Newer, More string // addresses of other pages; empty if there are none
}

// caughtRow is one submission that a honeypot caught.
type caughtRow struct {
	At       time.Time
	Message  string
	Document piece
}

// listCaught shows what honeypots caught, because a browser may have filled in the
// field for a person.
func (p pages) listCaught(r *http.Request) (any, error) {
	all, err := p.queue.Caught(r.Context())
	if err != nil {
		return nil, err
	}
	v := r.URL.Query()
	if wanted := v.Get("whole"); wanted != "" {
		for _, c := range all {
			if caughtID(c) == wanted {
				return plainText(c.Body), nil
			}
		}
		return nil, event.NewProblem(http.StatusNotFound, "This submission is no longer kept.")
	}
	from, _ := strconv.Atoi(v.Get("from")) // 0 if it is no number
	from = min(max(from, 0), len(all))
	to := min(from+caughtPerPage, len(all))
	var page caughtPage
	for _, c := range all[from:to] {
		var document struct{ Data struct{ Message string } }
		_ = json.Unmarshal(c.Body, &document) // the document is shown as well
		page.Rows = append(page.Rows, caughtRow{
			At: c.At, Message: shorten(document.Data.Message, excerpt),
			Document: pieceOf(string(c.Body), mostBody/5, "events/caught?whole="+caughtID(c)),
		})
	}
	if from > 0 {
		page.Newer = fmt.Sprint("events/caught?from=", max(from-caughtPerPage, 0))
	}
	if to < len(all) {
		page.More = fmt.Sprint("events/caught?from=", to)
	}
	return shown{name: "caught.html", screen: screen{Title: "Caught by a honeypot", Area: "events", Page: page}}, nil
}

// caughtID identifies a submission.
func caughtID(c queue.Caught) string {
	sum := sha256.Sum256(c.Body)
	return fmt.Sprintf("%d-%x", c.At.UnixMilli(), sum[:6])
}
