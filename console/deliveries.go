package console

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
)

// deliveryView is one event on its way to one webhook.
type deliveryView struct {
	ID            string        `json:"id"`
	EventID       string        `json:"event_id"`
	FeedbackID    string        `json:"feedback_id"`
	ProjectID     string        `json:"project_id,omitempty"`
	Type          string        `json:"type"`
	Webhook       string        `json:"webhook"`
	State         string        `json:"state"`
	AttemptsMade  int           `json:"attempts_made"`
	CreatedAt     time.Time     `json:"created_at"`
	NextAttemptAt time.Time     `json:"next_attempt_at,omitzero"`
	EndedAt       time.Time     `json:"ended_at,omitzero"`
	Attempts      []attemptView `json:"attempts"`
}

// attemptView is one request and what came back.
type attemptView struct {
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
	statePending   = "pending"
	stateRetrying  = "retrying"
	stateHeld      = "held"
	stateDelivered = "delivered"
	stateFailed    = "failed"
)

// storedStates are the states in the store that may read as the given one.
func storedStates(state string) []queue.State {
	switch state {
	case statePending:
		return []queue.State{queue.Pending}
	case stateRetrying:
		return []queue.State{queue.Retrying}
	case stateHeld:
		return []queue.State{queue.Pending, queue.Retrying}
	case stateDelivered:
		return []queue.State{queue.Delivered}
	case stateFailed:
		return []queue.State{queue.Failed}
	}
	return nil
}

// maxTurns bounds the work of one call where the store finds rows that the
// state of their webhook rules out. The page then holds fewer rows, or none,
// and a cursor.
const maxTurns = 8

func (a *api) deliveries(r *http.Request) (any, error) {
	p := parameters{values: r.URL.Query()}
	name := p.text("webhook")
	state := p.oneOf("state", statePending, stateRetrying, stateHeld, stateDelivered, stateFailed)
	q := queue.DeliveryQuery{
		States: storedStates(state),
		Since:  p.time("since"),
		Until:  p.time("until"),
		Limit:  p.limit(maxDeliveries),
		Cursor: p.text("cursor"),
	}
	if name != "" {
		w, ok := a.relay.Webhook(name)
		if !ok {
			p.bad("webhook", fmt.Sprintf("there is no webhook named %q", name))
		}
		q.Webhook = w.ID
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	names := a.names()
	page := list[deliveryView]{Items: []deliveryView{}}
	for range maxTurns {
		found, err := a.queue.Deliveries(r.Context(), q)
		if err != nil {
			return nil, cursorProblem(err, q.Cursor)
		}
		for _, d := range found.Items {
			if state != "" && a.relay.DeliveryState(d) != state {
				continue
			}
			v, err := a.viewWithAttempts(r, d, names)
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

func (a *api) delivery(r *http.Request) (any, error) {
	id, err := queue.ParseDeliveryID(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	d, err := a.queue.Delivery(r.Context(), id)
	if err != nil {
		return nil, err
	}
	return a.viewWithAttempts(r, d, a.names())
}

func (a *api) viewWithAttempts(r *http.Request, d queue.Delivery, names names) (deliveryView, error) {
	v := deliveryView{
		ID:           d.ID.String(),
		EventID:      d.ID.Event.String(),
		FeedbackID:   d.Feedback.ID,
		ProjectID:    d.Feedback.Project,
		Type:         d.Type,
		Webhook:      names.of(d.ID.Webhook),
		State:        a.relay.DeliveryState(d),
		AttemptsMade: d.Attempts,
		CreatedAt:    moment(d.Created),
		EndedAt:      moment(d.Ended),
		Attempts:     []attemptView{},
	}
	if v.State == stateRetrying || v.State == statePending {
		v.NextAttemptAt = moment(d.Due)
	}
	if d.Attempts == 0 {
		return v, nil
	}
	attempts, err := a.queue.Attempts(r.Context(), d.ID)
	if err != nil {
		return v, fmt.Errorf("reading the attempts of %s: %w", d.ID, err)
	}
	for _, attempt := range attempts {
		v.Attempts = append(v.Attempts, viewAttempt(attempt))
	}
	return v, nil
}

func viewAttempt(at queue.Attempt) attemptView {
	return attemptView{
		Number:          at.Number,
		At:              moment(at.At),
		DurationMS:      milliseconds(at.Duration),
		Status:          at.Status,
		Error:           at.Error,
		ErrorClass:      at.ErrorClass,
		RequestHeaders:  fields(at.RequestHeaders),
		ResponseHeaders: fields(at.ResponseHeaders),
		ResponseBody:    strings.ToValidUTF8(string(at.ResponseBody), "\uFFFD"),
		TraceID:         traceID(at.TraceID),
		NextAttemptAt:   moment(at.Next),
	}
}

// fields are header fields by name; several of one name read as one, by
// RFC 9110 §5.2.
func fields(headers []queue.Header) map[string]string {
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

// cursorProblem tells a cursor that the store does not know from an error of
// the store.
func cursorProblem(err error, cursor string) error {
	if cursor != "" && isNotFound(err) {
		return event.NewProblem(http.StatusBadRequest, "The cursor is none that this API gave. Begin again without it.")
	}
	return err
}
