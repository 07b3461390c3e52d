package api

import (
	"fmt"
	"net/http"

	"github.com/userhero/relay/queue"
)

// StoredStates returns the stored states of deliveries that may have the given state.
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

// maxTurns bounds the work of one call if the state of a webhook excludes the
// deliveries that the store finds. The page then has fewer rows, or none, and a
// cursor.
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

// viewWithAttempts returns a delivery with its attempts.
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

// names are the names of webhooks by id.
type names map[queue.WebhookID]string

func (s *server) names() names {
	n := make(names)
	for _, w := range s.relay.Webhooks() {
		n[w.ID] = w.Name
	}
	return n
}

func (n names) of(id queue.WebhookID) string {
	if name, ok := n[id]; ok {
		return name
	}
	return DeletedName(id)
}
