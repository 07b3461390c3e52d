package intake

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
)

// create stores the event of new feedback.
func (h *Handler) create(r *http.Request, s scope, f format, body []byte) (accepted, error) {
	feedback, identity, err := f.parse(body, r.Header)
	if err != nil {
		return accepted{}, err
	}
	defer feedback.Release()
	a := accepted{format: f, caught: h.takeHoneypot(feedback)}
	if a.caught {
		err := h.keepCaught(r, s, feedback)
		a.answer = answerTo(feedback) // one that gives nothing away
		return a, err
	}
	byClient := feedback.ID() != ""
	h.complete(r, s, feedback)
	project := feedback.ProjectID()
	if err := s.admit(project); err != nil {
		return accepted{}, err
	}
	if err := h.limitProject(project); err != nil {
		return accepted{}, err
	}
	key, err := idempotencyKey(r.Header, identity, project)
	if err != nil {
		return accepted{}, err
	}
	var origin [32]byte // a repeat with the client's id is known by it
	if byClient {
		origin = sha256.Sum256(identity)
	}
	receipt, err := h.storeNew(r, event.Created, feedback, key, origin)
	if begun := begunAs(err); begun != "" && !byClient {
		feedback.Rename(begun)
		receipt, err = h.storeNew(r, event.Created, feedback, key, origin)
	}
	if err != nil {
		return accepted{}, err
	}
	return a.with(receipt, feedback)
}

// storeNew stores feedback that nobody holds yet as an event of type t. If its project
// holds the id already, the error is queue.ErrExists, except for a repeat.
func (h *Handler) storeNew(r *http.Request, t event.Type, f *event.Feedback, key queue.Key, origin [32]byte) (queue.Receipt, error) {
	document, err := f.Document(t, time.Now())
	if err != nil {
		return queue.Receipt{}, err
	}
	e := queue.Entry{
		Type:     string(t),
		Feedback: queue.FeedbackID{Project: f.ProjectID(), ID: f.ID()},
		Body:     document,
		Key:      key,
		Origin:   origin,
	}
	if key.Name != "" || origin != [32]byte{} {
		e.Answer = answerTo(f)
	}
	return h.relay.Accept(lasting(r), e, r.Header)
}

// begunAs returns the id under which a relay that got no further has begun to store the first
// submission of this repeat, or "".
func begunAs(err error) string {
	var begun *queue.BegunError
	if errors.As(err, &begun) {
		return begun.Feedback.ID
	}
	return ""
}

// lasting returns a context that does not end with the client's connection. The event
// is stored even if the client has disconnected: sendBeacon does not wait for the
// answer.
func lasting(r *http.Request) context.Context { return context.WithoutCancel(r.Context()) }

// takeHoneypot removes the honeypot from the feedback, and reports and counts whether
// it is filled in.
func (h *Handler) takeHoneypot(feedback *event.Feedback) (filled bool) {
	if h.honeypot == "" {
		return false
	}
	if value, _ := feedback.Take(h.honeypot); value == "" {
		return false
	}
	h.observer.Rejected("honeypot")
	return true
}

// keepCaught keeps what a honeypot has caught where the console shows it: a browser
// may have filled the field in for a person.
func (h *Handler) keepCaught(r *http.Request, s scope, feedback *event.Feedback) error {
	h.complete(r, s, feedback)
	now := time.Now()
	document, err := feedback.Document(event.Created, now)
	if err != nil {
		return err
	}
	return h.relay.WithStore(func(s Store) error {
		return s.KeepCaught(lasting(r), queue.Caught{At: now, Body: document})
	})
}
