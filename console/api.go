// Package console shows what the relay does and has done, as a JSON API.
//
// It promises that reading costs the relay little (counters, and pages of
// bounded size by cursor), that no secret is in an answer, and that every error
// is a problem in the format of RFC 9457. It knows nothing of who may ask: it
// is mounted where that has been decided.
package console

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
)

// Options are what the API needs.
type Options struct {
	// Relay answers for webhooks and, through its queue, for events.
	Relay *relay.Relay
	// Version is shown by /status.
	Version string
	// Started is when the relay began its work.
	Started time.Time
	// Logger gets the errors that are not the client's. Default: none.
	Logger *slog.Logger
}

// api holds the options; it has no state of its own.
type api struct {
	relay   *relay.Relay
	queue   queue.Queue
	version string
	started time.Time
	log     *slog.Logger
}

// NewAPI returns the API. Its paths are relative: mount it with
// http.StripPrefix.
func NewAPI(o Options) http.Handler {
	a := &api{relay: o.Relay, queue: o.Relay.Queue(), version: o.Version, started: o.Started, log: o.Logger}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	mux := http.NewServeMux()
	for path, get := range map[string]func(*http.Request) (any, error){
		"/status":          a.status,
		"/healthz":         a.health,
		"/webhooks":        a.webhooks,
		"/webhooks/{name}": a.webhook,
		"/deliveries":      a.deliveries,
		"/deliveries/{id}": a.delivery,
		"/events":          a.events,
		"/events/{id}":     a.event,
	} {
		mux.Handle("GET "+path, a.answer(get))
		mux.HandleFunc(path, a.methodNotAllowed)
	}
	mux.HandleFunc("/", a.unknownPath)
	return mux
}

// answer writes what a request is answered with: the value, or the error as a
// problem.
func (a *api) answer(get func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		value, err := get(r)
		if err != nil {
			a.fail(w, r, err)
			return
		}
		a.write(w, r, http.StatusOK, "application/json", value)
	})
}

// fail answers with a problem. What is not the client's doing is logged, and
// told without its insides.
func (a *api) fail(w http.ResponseWriter, r *http.Request, err error) {
	var problem *event.Problem
	switch {
	case errors.As(err, &problem):
	case errors.Is(err, queue.ErrNotFound):
		problem = event.NewProblem(http.StatusNotFound, "There is no such record, or it has expired.")
	case errors.Is(err, queue.ErrClosed):
		problem = event.NewProblem(http.StatusServiceUnavailable, "The relay is starting or stopping. Try again.")
	default:
		a.log.Error("answering the API", "path", r.URL.Path, "error", err)
		problem = event.NewProblem(http.StatusInternalServerError, "The log has the reason.")
	}
	a.write(w, r, problem.Status, "application/problem+json", problem)
}

// write sends a value as JSON.
func (a *api) write(w http.ResponseWriter, r *http.Request, status int, contentType string, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		a.log.Error("encoding an API answer", "path", r.URL.Path, "error", err)
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client may have gone
}

func (a *api) methodNotAllowed(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Allow", "GET, HEAD")
	a.fail(w, r, event.NewProblem(http.StatusMethodNotAllowed, "This resource can only be read."))
}

func (a *api) unknownPath(w http.ResponseWriter, r *http.Request) {
	a.fail(w, r, event.NewProblem(http.StatusNotFound, "There are /status, /healthz, /webhooks, /deliveries and /events."))
}

// list is one page of a list.
type list[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}

// moment is a time as the API shows it: UTC, to the millisecond, absent where
// it is zero.
func moment(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.UTC().Truncate(time.Millisecond)
}
