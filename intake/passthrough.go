package intake

import (
	"cmp"
	"net/http"
	"time"
)

// Pass lets the next handler answer, and makes an event of its 2xx. Every 2xx to a
// POST, PATCH or PUT makes an event, or is counted and logged as missed. The error is
// that of next.
func (h *Handler) Pass(w http.ResponseWriter, r *http.Request, next func(http.ResponseWriter, *http.Request) error) error {
	if h.cors.configured() && isPreflight(r) {
		h.cors.allow(w.Header(), r.Header)
		h.cors.preflight(w, r)
		return nil
	}
	if !mayBeSubmission(r) {
		return next(w, r)
	}
	s, err := h.admit(w, r)
	if err != nil {
		h.cors.allow(w.Header(), r.Header)
		h.refuse(w, r, err)
		return nil
	}
	defer s.release()

	forwarded := r.Clone(r.Context())
	keepReadableCodings(forwarded.Header)
	if s.continued {
		forwarded.Header.Del("Expect")
	}
	g := newGate(w, func(answer []byte) error { return h.record(r, s, answer) })
	g.decorate = func(header http.Header) { h.cors.allow(header, r.Header) }
	defer g.broken() // if next panics, as a proxy does when the app's answer breaks off, or fails
	if err := next(g, forwarded); err != nil {
		return err // nothing of the answer has been sent, or all of it had been released
	}
	g.finish()
	return nil
}

// admit reads a submission if the limits allow it.
func (h *Handler) admit(w http.ResponseWriter, r *http.Request) (*submission, error) {
	if err := h.limitClient(r); err != nil {
		return nil, err
	}
	scope, err := h.scopeOf(r)
	if err != nil {
		return nil, err
	}
	s, err := h.readSubmission(w, r, bodyTimeout)
	if err != nil {
		return nil, err
	}
	s.scope = scope
	if s.feedback != nil {
		if err := h.limitProject(cmp.Or(s.feedback.ProjectID(), scope.project)); err != nil {
			s.release()
			return nil, err
		}
	}
	return s, nil
}

// keepReadableCodings removes from Accept-Encoding all codings but gzip: an answer in
// another coding could not be read here. A module around this one, such as encode, has read
// the field already.
func keepReadableCodings(h http.Header) {
	if acceptsGzip(h) {
		h.Set("Accept-Encoding", "gzip")
	} else {
		h.Del("Accept-Encoding")
	}
}

// record makes the event of a submission that the app has accepted. text is the app's
// answer, if it can be one about feedback. The error is the store's: the client must
// learn that the event is not on disk.
func (h *Handler) record(r *http.Request, s *submission, text []byte) error {
	done, err := h.memory.turn(lasting(r), len(s.body)+len(text))
	if err != nil {
		return h.missed(r, err)
	}
	defer done()
	e, err := (&recording{Handler: h, request: r, submission: s}).record(text)
	if err == nil {
		h.observer.Ingested(time.Since(s.arrived), e.Trace)
		return nil
	}
	return h.missed(r, err)
}
