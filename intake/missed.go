package intake

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
)

// noEvent says why a submission that the next handler has accepted made no event.
type noEvent struct{ reason, detail string }

func (n noEvent) Error() string { return n.detail }

var (
	// harmlessReasons: nothing is lost.
	harmlessReasons = []string{"unchanged", "repeat", "honeypot", "erased"}
	// invalidReasons: the submission or the answer is not valid.
	invalidReasons = []string{"media_type", "malformed", "invalid", "too_large", "unknown_feedback", "ambiguous", "redacted"}
	// storeReasons: the store took nothing, and the client got a 503.
	storeReasons = []string{"full", "unavailable", "failed", "closed", "conflict", "error"}
)

// MissedReasons returns the values that Observer.Missed gets.
func MissedReasons() []string { return slices.Concat(invalidReasons, harmlessReasons, storeReasons) }

// maxPointer bounds how much of a pointer is logged, in bytes: the submission chooses
// the names in it.
const maxPointer = 100

// missed counts and logs a submission that the next handler has accepted and that made
// no event. It returns the error if that is the store's.
func (h *Handler) missed(r *http.Request, err error) error {
	attrs := []slog.Attr{slog.String("method", r.Method), slog.String("path", r.URL.Path)}
	var n noEvent
	if !errors.As(err, &n) {
		problem, reason := problemOf(err)
		n = noEvent{reason, problem.Detail}
		if len(problem.Errors) > 0 {
			pointer := problem.Errors[0].Pointer
			attrs = append(attrs, slog.String("pointer", pointer[:min(len(pointer), maxPointer)]))
		}
	}
	h.observer.Missed(n.reason)
	if slices.Contains(storeReasons, n.reason) {
		h.observer.Rejected(n.reason)
		h.logUnstored(r, n.reason, err)
		return err
	}
	level := slog.LevelWarn
	if slices.Contains(harmlessReasons, n.reason) {
		level = slog.LevelInfo
	}
	attrs = append(attrs, slog.String("reason", n.reason), slog.String("detail", n.detail))
	h.log.LogAttrs(context.Background(), level, "accepted by the next handler, but no event was made", withTrace(r.Context(), attrs)...)
	return nil
}
