package api

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
)

// Delivery is one event on its way to one webhook.
type Delivery struct {
	ID            string    `json:"id"`
	EventID       string    `json:"event_id"`
	FeedbackID    string    `json:"feedback_id"`
	ProjectID     string    `json:"project_id,omitempty"`
	Type          string    `json:"type"`
	Webhook       string    `json:"webhook"`
	State         string    `json:"state"`
	AttemptsMade  int       `json:"attempts_made"`
	CreatedAt     time.Time `json:"created_at"`
	NextAttemptAt time.Time `json:"next_attempt_at,omitzero"`
	EndedAt       time.Time `json:"ended_at,omitzero"`
	Attempts      []Attempt `json:"attempts"`
}

// Attempt is one request and what came back.
type Attempt struct {
	Number          int               `json:"number"`
	At              time.Time         `json:"at"`
	DurationMS      float64           `json:"duration_ms"`
	Status          int               `json:"status,omitempty"`
	Error           string            `json:"error,omitempty"`
	ErrorClass      string            `json:"error_class,omitempty"`
	RequestHeaders  map[string]string `json:"request_headers"`
	ResponseHeaders map[string]string `json:"response_headers"`
	ResponseBody    string            `json:"response_body"`
	TraceID         string            `json:"trace_id"`
	NextAttemptAt   time.Time         `json:"next_attempt_at,omitzero"`
}

// The states of a delivery as the API names them. "held" is pending or
// retrying, for a webhook that takes nothing now.
const (
	StatePending   = "pending"
	StateRetrying  = "retrying"
	StateHeld      = "held"
	StateDelivered = "delivered"
	StateFailed    = "failed"
)

// StoredStates are the states in the store that may read as the given one.
func StoredStates(state string) []queue.State {
	switch state {
	case StatePending:
		return []queue.State{queue.Pending}
	case StateRetrying:
		return []queue.State{queue.Retrying}
	case StateHeld:
		return []queue.State{queue.Pending, queue.Retrying}
	case StateDelivered:
		return []queue.State{queue.Delivered}
	case StateFailed:
		return []queue.State{queue.Failed}
	}
	return nil
}

// maxTurns bounds the work of one call where the store finds rows that the
// state of their webhook rules out. The page then holds fewer rows, or none,
// and a cursor.
const maxTurns = 8

func (s *server) deliveries(r *http.Request) (any, error) {
	p := parameters{values: r.URL.Query()}
	name := p.text("webhook")
	state := p.oneOf("state", StatePending, StateRetrying, StateHeld, StateDelivered, StateFailed)
	q := queue.DeliveryQuery{
		States: StoredStates(state),
		Since:  p.time("since"),
		Until:  p.time("until"),
		Limit:  p.limit(maxDeliveries),
		Cursor: p.text("cursor"),
	}
	if name != "" {
		w, ok := s.relay.Webhook(name)
		if !ok {
			p.bad("webhook", fmt.Sprintf("there is no webhook named %q", name))
		}
		q.Webhook = w.ID
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	names := s.names()
	page := Page[Delivery]{Items: []Delivery{}}
	for range maxTurns {
		found, err := s.queue.Deliveries(r.Context(), q)
		if err != nil {
			return nil, CursorProblem(err, q.Cursor)
		}
		for _, d := range found.Items {
			if state != "" && s.relay.DeliveryState(d) != state {
				continue
			}
			v, err := s.viewWithAttempts(r, d, names)
			if err != nil {
				return nil, err
			}
			page.Items = append(page.Items, v)
		}
		page.Next = found.Next
		if found.Next == "" || len(page.Items) > 0 {
			break
		}
		q.Cursor = found.Next
	}
	return page, nil
}

func (s *server) delivery(r *http.Request) (any, error) {
	id, err := queue.ParseDeliveryID(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	d, err := s.queue.Delivery(r.Context(), id)
	if err != nil {
		return nil, err
	}
	return s.viewWithAttempts(r, d, s.names())
}

func (s *server) viewWithAttempts(r *http.Request, d queue.Delivery, names names) (Delivery, error) {
	v := Delivery{
		ID:           d.ID.String(),
		EventID:      d.ID.Event.String(),
		FeedbackID:   d.Feedback.ID,
		ProjectID:    d.Feedback.Project,
		Type:         d.Type,
		Webhook:      names.of(d.ID.Webhook),
		State:        s.relay.DeliveryState(d),
		AttemptsMade: d.Attempts,
		CreatedAt:    moment(d.Created),
		EndedAt:      moment(d.Ended),
		Attempts:     []Attempt{},
	}
	if v.State == StateRetrying || v.State == StatePending {
		v.NextAttemptAt = moment(d.Due)
	}
	if d.Attempts == 0 {
		return v, nil
	}
	attempts, err := s.queue.Attempts(r.Context(), d.ID)
	if err != nil {
		return v, fmt.Errorf("reading the attempts of %s: %w", d.ID, err)
	}
	for _, attempt := range attempts {
		v.Attempts = append(v.Attempts, viewAttempt(attempt))
	}
	return v, nil
}

func viewAttempt(at queue.Attempt) Attempt {
	return Attempt{
		Number:          at.Number,
		At:              moment(at.At),
		DurationMS:      milliseconds(at.Duration),
		Status:          at.Status,
		Error:           at.Error,
		ErrorClass:      at.ErrorClass,
		RequestHeaders:  HeaderFields(at.RequestHeaders),
		ResponseHeaders: HeaderFields(at.ResponseHeaders),
		ResponseBody:    strings.ToValidUTF8(string(at.ResponseBody), "\uFFFD"),
		TraceID:         TraceID(at.TraceID),
		NextAttemptAt:   moment(at.Next),
	}
}

// HeaderFields are header fields by name; several of one name read as one, by
// RFC 9110 §5.2.
func HeaderFields(headers []queue.Header) map[string]string {
	m := make(map[string]string, len(headers))
	for _, h := range headers {
		if before, ok := m[h.Name]; ok {
			m[h.Name] = before + ", " + h.Value
			continue
		}
		m[h.Name] = h.Value
	}
	return m
}

// CursorProblem tells a cursor that the store does not know from an error of
// the store.
func CursorProblem(err error, cursor string) error {
	if cursor != "" && isNotFound(err) {
		return event.NewProblem(http.StatusBadRequest, "The cursor is none that this API gave. Begin again without it.")
	}
	return err
}
