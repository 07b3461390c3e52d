package intake

import (
	"cmp"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
)

// acceptedFormats is what Accept-Post lists.
const acceptedFormats = "application/json, text/plain, application/x-www-form-urlencoded, multipart/form-data"

// refuse answers a submission that made no event, and counts the reason. An error
// that the client cannot repair is logged.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	problem, reason := problemOf(err)
	h.observer.Rejected(reason)
	header := w.Header()
	var limited rateLimited
	if errors.As(err, &limited) {
		header.Set("Retry-After", limited.retryAfter())
	}
	switch problem.Status {
	case http.StatusServiceUnavailable:
		h.logUnstored(r, reason, err)
		header.Set("Retry-After", RetryAfter(err))
	case http.StatusUnsupportedMediaType:
		header.Set("Accept-Post", acceptedFormats)
		header.Set("Accept-Encoding", "identity")
	}
	refuseUnread(w, r, problem, defaultDrain)
}

// logUnstored logs an error of the store.
func (h *Handler) logUnstored(r *http.Request, reason string, err error) {
	h.log.unstored.log(r.Context(), h.log.Logger, slog.LevelError, "submission not stored", slog.String("reason", reason), slog.Any("error", err))
}

// reasons are those under which problems are counted, by status. Any other status is
// "invalid".
var reasons = map[int]string{
	http.StatusBadRequest:            "malformed",
	http.StatusForbidden:             "forbidden",
	http.StatusNotFound:              "unknown_feedback",
	http.StatusRequestTimeout:        "timeout",
	http.StatusRequestEntityTooLarge: "too_large",
	http.StatusUnsupportedMediaType:  "media_type",
}

// RejectedReasons returns the values that Observer.Rejected gets.
func RejectedReasons() []string {
	visitors := []string{"invalid", "rate_limited", "key_reused", "id_taken", "erased", "redacted", "honeypot"}
	return slices.Concat(slices.Sorted(maps.Values(reasons)), visitors, storeReasons)
}

// problemOf returns the answer to a submission that failed with err, and the reason
// under which it is counted. An error that is no refusal of the intake comes from the
// store.
func problemOf(err error) (problem *event.Problem, reason string) {
	if errors.As(err, &problem) {
		return problem, cmp.Or(reasons[problem.Status], "invalid")
	}
	var limited rateLimited
	switch {
	case errors.As(err, &limited):
		return limited.problem(), "rate_limited"
	case errors.Is(err, queue.ErrMismatch):
		return event.NewProblem(http.StatusUnprocessableEntity, "This Idempotency-Key was used within 24 hours with another body. Use a new one for another submission."), "key_reused"
	case errors.Is(err, queue.ErrErased):
		return event.NewProblem(http.StatusGone, "This feedback was erased. It is not stored again."), "erased"
	case errors.Is(err, queue.ErrRedacted):
		return event.NewProblem(http.StatusGone, "This feedback is old: its text was removed, and it does not change any more."), "redacted"
	case errors.Is(err, queue.ErrExists):
		return event.NewProblem(http.StatusUnprocessableEntity, "There is feedback with this id already. Use a new id, or change that feedback with PATCH.",
			event.FieldError{Pointer: "/id", Detail: "is taken"}), "id_taken"
	}
	return Unavailable(err), failureOf(err).reason
}
