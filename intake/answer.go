package intake

import (
	"errors"
	"log/slog"
	"net/http"
	"sync"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
)

// Values of header fields. Set them with Header.Set, which makes a slice for
// each answer: Caddy's header directive edits the slices of an answer in place.
const (
	allowedMethods  = "POST, PATCH, PUT, OPTIONS"
	acceptedFormats = "application/json, text/plain, application/x-www-form-urlencoded, multipart/form-data"
)

// answers are buffers for short JSON texts.
var answers = sync.Pool{New: func() any { b := make([]byte, 0, 256); return &b }}

// appendAnswer appends what the client needs to come back to its feedback.
func appendAnswer(b []byte, feedback *event.Feedback) []byte {
	b = append(b, `{"id":`...)
	b = feedback.AppendText(b, "id")
	b = append(b, `,"status":`...)
	b = feedback.AppendText(b, "status")
	b = append(b, `,"createdAt":`...)
	b = feedback.AppendText(b, "createdAt")
	return append(b, '}', '\n')
}

// writeAccepted answers 202 for feedback that is stored.
func writeAccepted(w http.ResponseWriter, r *http.Request, f format, feedback *event.Feedback) {
	buf := answers.Get().(*[]byte)
	defer answers.Put(buf)
	*buf = appendAnswer((*buf)[:0], feedback)
	writeAnswer(w, r, f, *buf)
}

// writeAnswer answers 202; a form sent by a page without script is led back to the
// page.
func writeAnswer(w http.ResponseWriter, r *http.Request, f format, b []byte) {
	if f.isForm() && WantsHTML(r.Header) {
		writeThanks(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusAccepted)
	_, _ = w.Write(b) // the client may have gone, the event is stored
}

// refuse answers a submission that made no event, and counts why. What the
// client cannot repair is logged.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	problem, reason := explain(err)
	h.observer.Rejected(reason)
	header := w.Header()
	var limited errLimited
	if errors.As(err, &limited) {
		header.Set("Retry-After", limited.retryAfter())
	}
	switch problem.Status {
	case http.StatusServiceUnavailable:
		h.complain(r, reason, err)
		header.Set("Retry-After", RetryAfter(err))
	case http.StatusUnsupportedMediaType:
		header.Set("Accept-Post", acceptedFormats)
		header.Set("Accept-Encoding", "identity")
	}
	refuseUnread(w, r, problem, lingering)
}

// complain logs what the client cannot repair.
func (h *Handler) complain(r *http.Request, reason string, err error) {
	h.log.unstored.log(r.Context(), h.log.Logger, slog.LevelError, "submission not stored", slog.String("reason", reason), slog.Any("error", err))
}

// explain says what the client is told about an error, and under which reason
// it is counted. What is no refusal of ours is the store's.
func explain(err error) (problem *event.Problem, reason string) {
	if errors.As(err, &problem) {
		switch problem.Status {
		case http.StatusBadRequest:
			return problem, "malformed"
		case http.StatusForbidden:
			return problem, "forbidden"
		case http.StatusNotFound:
			return problem, "unknown_feedback"
		case http.StatusRequestTimeout:
			return problem, "timeout"
		case http.StatusRequestEntityTooLarge:
			return problem, "too_large"
		case http.StatusUnsupportedMediaType:
			return problem, "media_type"
		}
		return problem, "invalid"
	}
	var limited errLimited
	switch {
	case errors.As(err, &limited):
		return limited.problem(), "rate_limited"
	case errors.Is(err, queue.ErrMismatch):
		return event.NewProblem(http.StatusUnprocessableEntity, "This Idempotency-Key was used within 24 hours with another body. Use a new one for another submission."), "key_reused"
	case errors.Is(err, queue.ErrExists):
		return event.NewProblem(http.StatusUnprocessableEntity, "There is feedback with this id already. Use a new id, or change that feedback with PATCH.",
			event.FieldError{Pointer: "/id", Detail: "is taken"}), "id_taken"
	case errors.Is(err, queue.ErrFull):
		return Unavailable(err), "full"
	case errors.Is(err, queue.ErrFailed):
		return Unavailable(err), "failed"
	case errors.Is(err, queue.ErrClosed):
		return Unavailable(err), "closed"
	case errors.Is(err, queue.ErrConflict):
		return Unavailable(err), "conflict"
	}
	return Unavailable(err), "error"
}

// unavailable is the answer when the store takes nothing now.
func Unavailable(err error) *event.Problem {
	detail := "The submission could not be stored. Try again later."
	switch {
	case errors.Is(err, queue.ErrFull):
		detail = "The store takes no more events at the moment. Try again later."
	case errors.Is(err, queue.ErrClosed):
		detail = "The relay is starting or stopping. Try again."
	case errors.Is(err, queue.ErrFailed):
		detail = "The store has failed; its operator finds the reason in the log."
	}
	return event.NewProblem(http.StatusServiceUnavailable, detail)
}

// retryAfter is when to come back, in seconds: soon where the store changes hands, later
// where it must make room, much later where somebody must look after it.
func RetryAfter(err error) string {
	switch {
	case errors.Is(err, queue.ErrClosed), errors.Is(err, queue.ErrConflict):
		return "1"
	case errors.Is(err, queue.ErrFull):
		return "5"
	}
	return "30"
}

// writeProblem answers in the format of RFC 9457.
func WriteProblem(w http.ResponseWriter, p *event.Problem) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(p.JSON(), '\n')) //nolint:gosec // JSON, never HTML
}
