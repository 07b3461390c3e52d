package api

import (
	"encoding/hex"
	"encoding/json"
	"net/http"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
)

// Event is an event; lists leave the body and the deliveries out.
type Event struct {
	ID         string          `json:"id"`
	Type       string          `json:"type"`
	FeedbackID string          `json:"feedback_id"`
	ProjectID  string          `json:"project_id,omitempty"`
	CreatedAt  time.Time       `json:"created_at"`
	Size       int             `json:"size"` // of the body in bytes
	TraceID    string          `json:"trace_id,omitempty"`
	Body       json.RawMessage `json:"body,omitempty"`
	Deliveries []Delivery      `json:"deliveries,omitzero"`
}

func viewEvent(e queue.Event) Event {
	return Event{
		ID:         e.ID.String(),
		Type:       e.Type,
		FeedbackID: e.Feedback.ID,
		ProjectID:  e.Feedback.Project,
		CreatedAt:  moment(e.Created),
		Size:       len(e.Body),
		TraceID:    TraceID(e.Trace.TraceID),
	}
}

// TraceID is the id in hexadecimal, empty where there is none.
func TraceID(id [16]byte) string {
	if id == ([16]byte{}) {
		return ""
	}
	return hex.EncodeToString(id[:])
}

func (s *server) events(r *http.Request) (any, error) {
	p := parameters{values: r.URL.Query()}
	q := queue.EventQuery{
		Type:       p.oneOf("type", string(event.Created), string(event.Updated)),
		FeedbackID: p.text("feedback_id"),
		ProjectID:  p.text("project"),
		Since:      p.time("since"),
		Until:      p.time("until"),
		Match:      NewSearch(p.text("q")),
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
