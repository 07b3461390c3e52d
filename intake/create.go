package intake

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
)

// create answers a POST.
func (h *Handler) create(w http.ResponseWriter, r *http.Request) {
	arrived := time.Now()
	s, err := h.scopeOf(r)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	format, err := formatOf(r.Header)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	body, err := readBody(w, r, h.maxBody, bodyTimeout)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	defer body.release()
	feedback, identity, err := format.parse(body.Bytes(), r.Header)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	defer feedback.Release()
	if h.trapped(feedback) {
		if err := h.keepCaught(r, s, feedback); err != nil {
			h.refuse(w, r, err)
			return
		}
		writeAccepted(w, r, format, feedback)
		return
	}
	receipt, err := h.submit(r, s, feedback, identity)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	if receipt.Replayed {
		h.replay(w, r, format, receipt)
		return
	}
	h.observer.Ingested(time.Since(arrived), receipt.Event.Trace)
	writeAccepted(w, r, format, feedback)
}

// submit completes the feedback and stores its event. identity is what a
// repeat of the submission must equal.
func (h *Handler) submit(r *http.Request, s scope, feedback *event.Feedback, identity []byte) (queue.Receipt, error) {
	now := time.Now()
	chosen := feedback.ID() != "" // by the client
	feedback.Fill(h.defaults(r, s, feedback))
	project := feedback.ProjectID()
	if err := s.admit(project); err != nil {
		return queue.Receipt{}, err
	}
	if err := h.limitProject(project); err != nil {
		return queue.Receipt{}, err
	}
	key, err := idempotencyKey(r.Header, identity, project)
	if err != nil {
		return queue.Receipt{}, err
	}
	feedback.Complete(now, event.NewID)
	document, err := feedback.Document(event.Created, now)
	if err != nil {
		return queue.Receipt{}, err
	}
	a := queue.Entry{
		Type:     string(event.Created),
		Feedback: queue.FeedbackID{Project: project, ID: feedback.ID()},
		Body:     document,
		Key:      key,
	}
	if chosen {
		a.Origin = sha256.Sum256(identity)
	}
	if chosen || key.Name != "" {
		a.Answer = appendAnswer(nil, feedback)
	}
	// What was read whole is stored, also where the client has gone by now: a
	// page that closes does not wait for the answer.
	return h.relay.Accept(context.WithoutCancel(r.Context()), a, r.Header)
}

// replay gives the answer that the first submission got.
func (h *Handler) replay(w http.ResponseWriter, r *http.Request, format format, receipt queue.Receipt) {
	answer := receipt.Answer
	if len(answer) == 0 { // stored before answers were
		if receipt.Event.ID.IsZero() {
			h.refuse(w, r, event.NewProblem(http.StatusGone, "This submission was accepted before, and its feedback has been removed since."))
			return
		}
		first, err := event.Stored(receipt.Event.Body)
		if err != nil {
			h.refuse(w, r, fmt.Errorf("reading event %s: %w", receipt.Event.ID, err))
			return
		}
		answer = appendAnswer(nil, first)
		first.Release()
	}
	w.Header().Set("Idempotency-Replayed", "true")
	writeAnswer(w, r, format, answer)
}
