package intake

import (
	"net/http"
	"time"

	"github.com/userhero/relay/event"
)

// ServeHTTP answers a submission, a preflight, or 405.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.cors.allow(w.Header(), r.Header)
	switch r.Method {
	case http.MethodPost, http.MethodPatch, http.MethodPut:
		h.serve(w, r)
	case http.MethodOptions:
		h.cors.preflight(w, r)
	default:
		w.Header().Set("Allow", allowedMethods)
		refuseUnread(w, r, event.NewProblem(http.StatusMethodNotAllowed, "Send feedback with POST, change it with PATCH or PUT on its id."), defaultDrain)
	}
}

// serve answers a submission.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request) {
	arrived := time.Now()
	a, err := h.accept(w, r)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	if a.replayed {
		w.Header().Set("Idempotency-Replayed", "true")
	} else if !a.caught {
		h.observer.Ingested(time.Since(arrived), a.trace)
	}
	writeAnswer(w, r, a.format, a.answer)
}

// accept reads a submission and stores its event.
func (h *Handler) accept(w http.ResponseWriter, r *http.Request) (accepted, error) {
	if err := h.limitClient(r); err != nil {
		return accepted{}, err
	}
	s, err := h.scopeOf(r)
	if err != nil {
		return accepted{}, err
	}
	update := r.Method != http.MethodPost
	if update && !h.mayUpdate(r) {
		return accepted{}, event.NewProblem(http.StatusForbidden, "Send the token of update_auth as \"Authorization: Bearer …\", or be a user that Caddy has authenticated.")
	}
	f, err := formatOf(r.Header)
	if err != nil {
		return accepted{}, err
	}
	if update && f != formatJSON {
		return accepted{}, unsupported(r.Header.Get("Content-Type"))
	}
	body, err := h.memory.readBody(w, r, h.maxBody, bodyTimeout)
	if err != nil {
		return accepted{}, err
	}
	defer body.release()
	done, err := h.memory.turn(lasting(r), body.Len())
	if err != nil {
		return accepted{}, err
	}
	defer done()
	if update {
		return h.update(r, s, body.Bytes())
	}
	return h.create(r, s, f, body.Bytes())
}
