package api

import (
	"net/http"
	"slices"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
)

func (s *server) events(r *http.Request) (any, error) {
	p := parameters{values: r.URL.Query()}
	facts := Facts{Category: p.text("category"), Status: p.text("status"), Rating: p.rating("rating")}
	q := queue.EventQuery{
		Type:       p.oneOf("type", TypeNames()...),
		FeedbackID: p.text("feedback_id"),
		ProjectID:  p.text("project"),
		Since:      p.time("since"),
		Until:      p.time("until"),
		Match:      facts.Match(p.text("q")),
		Limit:      p.limit(maxEvents),
		Cursor:     p.text("cursor"),
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	found, err := s.queue.Events(r.Context(), q)
	if err != nil {
		return nil, CursorProblem(err, q.Cursor)
	}
	page := Page[Event]{Items: make([]Event, len(found.Items)), Next: found.Next}
	for i, e := range found.Items {
		page.Items[i] = viewEvent(e)
	}
	return page, nil
}

func (s *server) event(r *http.Request) (any, error) {
	id, err := queue.ParseEventID(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	e, err := s.queue.Event(r.Context(), id)
	if err != nil {
		return nil, err
	}
	deliveries, err := s.queue.EventDeliveries(r.Context(), id)
	if err != nil {
		return nil, err
	}
	v := viewEvent(e)
	v.Body = e.Body
	v.Deliveries = make([]Delivery, 0, len(deliveries))
	names := s.names()
	for _, d := range deliveries {
		dv, err := s.viewWithAttempts(r, d, names)
		if err != nil {
			return nil, err
		}
		v.Deliveries = append(v.Deliveries, dv)
	}
	return v, nil
}

// activity lists the activity log, newest first.
func (s *server) activity(r *http.Request) (any, error) {
	p := parameters{values: r.URL.Query()}
	limit, cursor := p.limit(maxEvents), p.text("cursor")
	if err := p.err(); err != nil {
		return nil, err
	}
	found, err := s.relay.Activities(r.Context(), limit, cursor)
	if err != nil {
		return nil, CursorProblem(err, cursor)
	}
	page := Page[Activity]{Items: make([]Activity, len(found.Items)), Next: found.Next}
	for i, l := range found.Items {
		page.Items[i] = Activity{l.ID, StreamedActivity{moment(l.At), l.What, l.Who, l.Webhook, l.Detail}}
	}
	return page, nil
}

// TypeNames returns the names of all types of events.
func TypeNames() (names []string) {
	for _, t := range slices.Concat(event.Types(), event.OperationalTypes()) {
		names = append(names, string(t))
	}
	return names
}
