package intake

import (
	"errors"
	"net/http"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
)

// failure is a reason why the store takes nothing now.
type failure struct {
	err    error
	reason string // in metrics and logs
	// retryAfter is in seconds: few if the store changes hands, more if it must make
	// room, many if somebody must repair it.
	retryAfter string
	detail     string
}

var failures = []failure{
	{queue.ErrFull, "full", "5", "The store takes no more events at the moment. Try again later."},
	{queue.ErrUnavailable, "unavailable", "5", "The store does not answer at the moment. Try again."},
	{queue.ErrFailed, "failed", "30", "The store has failed; its operator finds the reason in the log."},
	{queue.ErrClosed, "closed", "1", "The relay is starting or stopping. Try again."},
	{queue.ErrConflict, "conflict", "1", "The submission could not be stored. Try again later."},
}

func failureOf(err error) failure {
	for _, f := range failures {
		if errors.Is(err, f.err) {
			return f
		}
	}
	return failure{err, "error", "30", "The submission could not be stored. Try again later."}
}

// Unavailable returns the answer 503 to a request that failed with an error of the
// store.
func Unavailable(err error) *event.Problem {
	return event.NewProblem(http.StatusServiceUnavailable, failureOf(err).detail)
}

// RetryAfter returns the value of the Retry-After field that belongs to Unavailable,
// in seconds.
func RetryAfter(err error) string { return failureOf(err).retryAfter }

// WriteProblem answers in the format of RFC 9457.
func WriteProblem(w http.ResponseWriter, p *event.Problem) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(p.JSON(), '\n'))
}
