package intake

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
)

// missed says why a submission that the next handler has accepted made no event.
type missed struct{ reason, detail string }

func (m missed) Error() string { return m.detail }

// The reasons why a submission that the next handler has accepted made no event.
var (
	// Nothing is lost.
	harmlessReasons = []string{"unchanged", "repeat", "honeypot"}
	// The submission or the answer is not what it must be.
	missedReasons = []string{"media_type", "malformed", "invalid", "too_large", "unknown_feedback", "ambiguous"}
	// The store took nothing; the client was told.
	storeReasons = []string{"full", "failed", "closed", "conflict", "error"}
)

// MissedReasons are the reasons that an Observer is told of.
func MissedReasons() []string { return slices.Concat(missedReasons, harmlessReasons, storeReasons) }

// maxPointer bounds how much of a pointer is logged: a submission chooses names.
const maxPointer = 100

// miss counts and logs what the next handler has accepted and made no event. The
// error is the store's.
func (h *Handler) miss(r *http.Request, err error) error {
	attrs := []slog.Attr{slog.String("method", r.Method), slog.String("path", r.URL.Path)}
	var m missed
	if !errors.As(err, &m) {
		problem, reason := explain(err)
		m = missed{reason, problem.Detail}
		if len(problem.Errors) > 0 {
			pointer := problem.Errors[0].Pointer
			attrs = append(attrs, slog.String("pointer", pointer[:min(len(pointer), maxPointer)]))
		}
	}
	h.observer.Missed(m.reason)
	if slices.Contains(storeReasons, m.reason) {
		h.observer.Rejected(m.reason)
		h.complain(r, m.reason, err)
		return err
	}
	level := slog.LevelWarn
	if slices.Contains(harmlessReasons, m.reason) {
		level = slog.LevelInfo
	}
	attrs = append(attrs, slog.String("reason", m.reason), slog.String("detail", m.detail))
	h.log.LogAttrs(context.Background(), level, "accepted by the next handler, but no event was made", withTrace(r.Context(), attrs)...)
	return nil
}
