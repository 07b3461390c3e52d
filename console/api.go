// Package console shows what the relay does and has done, and lets people manage
// its webhooks, as a JSON API.
//
// It promises that reading costs the relay little (counters, and pages of
// bounded size by cursor), that no secret is in an answer, and that every error
// is a problem in the format of RFC 9457. It knows nothing of who may ask: it
// is mounted where that has been decided.
package console

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
)

// AdminPath is where Caddy's admin endpoint has the API.
const AdminPath = "/userhero"

// Options are what the API needs.
type Options struct {
	// Relay answers for webhooks and, through its queue, for events.
	Relay *relay.Relay
	// Version is shown by /status.
	Version string
	// Started is when the relay began its work.
	Started time.Time
	// Who names the one who sent a request, for the activity log. Default: as
	// WithUser said, or "admin".
	Who func(*http.Request) string
	// Ending is asked a few times a second while a stream is open; true ends it.
	// Whoever serves requests says so when the server is about to wait for them.
	// Default: never.
	Ending func() bool
	// Heartbeat is how often a silent stream says that it is alive. Default: 15 s.
	Heartbeat time.Duration
	// Logger gets the errors that are not the client's. Default: none.
	Logger *slog.Logger
}

// api holds the options; all state it has of its own is how many listen.
type api struct {
	relay     *relay.Relay
	queue     queue.Queue
	version   string
	started   time.Time
	who       func(*http.Request) string
	ending    func() bool
	heartbeat time.Duration
	log       *slog.Logger
	streams   atomic.Int64
}

// NewAPI returns the API. Its paths are relative: mount it with
// http.StripPrefix.
func NewAPI(o Options) http.Handler { return newAPI(o).handler() }

func newAPI(o Options) *api {
	a := &api{
		relay: o.Relay, queue: o.Relay.Queue(), version: o.Version, started: o.Started,
		who: o.Who, ending: o.Ending, heartbeat: o.Heartbeat, log: o.Logger,
	}
	if a.ending == nil {
		a.ending = func() bool { return false }
	}
	if a.heartbeat <= 0 {
		a.heartbeat = defaultHeartbeat
	}
	if a.who == nil {
		a.who = userOf
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	return a
}

func (a *api) handler() http.Handler {
	mux := http.NewServeMux()
	allow := make(map[string][]string)
	for _, r := range a.routes() {
		mux.Handle(r.method+" "+r.path, r.handler)
		allow[r.path] = append(allow[r.path], r.method)
	}
	for path, methods := range allow {
		mux.Handle(path, a.methodNotAllowed(methods))
	}
	mux.HandleFunc("/", a.unknownPath)
	// A page of another origin must not act in the name of who is logged in
	// here. What is no browser sends neither of the fields this looks at.
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.fail(w, r, event.NewProblem(http.StatusForbidden, "Requests of another origin may not change anything."))
	}))
	return protection.Handler(mux)
}

// route is one request of the API.
type route struct {
	method, path string
	handler      http.Handler
}

func (a *api) routes() []route {
	return []route{
		{"GET", "/status", a.answer(a.status)},
		{"GET", "/healthz", a.answer(a.health)},
		{"GET", "/openapi.json", a.answer(a.describe)},
		{"GET", "/webhooks", a.answer(a.webhooks)},
		{"POST", "/webhooks", a.answer(a.addWebhook)},
		{"GET", "/webhooks/{name}", a.answer(a.webhook)},
		{"PATCH", "/webhooks/{name}", a.answer(a.changeWebhook)},
		{"DELETE", "/webhooks/{name}", a.answer(a.deleteWebhook)},
		{"POST", "/webhooks/{name}/enable", a.answer(a.enableWebhook)},
		{"POST", "/webhooks/{name}/disable", a.answer(a.disableWebhook)},
		{"POST", "/webhooks/{name}/test", a.answer(a.testWebhook)},
		{"POST", "/webhooks/{name}/rotate", a.answer(a.rotateSecret)},
		{"POST", "/webhooks/{name}/redeliver", a.answer(a.recoverWebhook)},
		{"GET", "/deliveries", a.answer(a.deliveries)},
		{"GET", "/deliveries/{id}", a.answer(a.delivery)},
		{"POST", "/deliveries/{id}/redeliver", a.answer(a.redeliver)},
		{"GET", "/events", a.answer(a.events)},
		{"GET", "/events/{id}", a.answer(a.event)},
		{"GET", "/activity", a.answer(a.activity)},
		{"GET", "/stream", http.HandlerFunc(a.stream)},
	}
}

// created is an answer of status 201.
type created struct{ value any }

// answer writes what a request is answered with: the value, or the error as a
// problem.
func (a *api) answer(do func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		value, err := do(r)
		if err != nil {
			a.fail(w, r, err)
			return
		}
		status := http.StatusOK
		if c, ok := value.(created); ok {
			status, value = http.StatusCreated, c.value
		}
		a.write(w, r, status, "application/json", value)
	})
}

// fail answers with a problem.
func (a *api) fail(w http.ResponseWriter, r *http.Request, err error) {
	problem := a.problem(r, err)
	a.write(w, r, problem.Status, "application/problem+json", problem)
}

// problem is what a client is told about an error. What is not the client's
// doing is logged, and told without its insides.
func (a *api) problem(r *http.Request, err error) (problem *event.Problem) {
	switch {
	case errors.As(err, &problem):
	case errors.Is(err, queue.ErrNotFound):
		problem = event.NewProblem(http.StatusNotFound, "There is no such record, or it has expired.")
	case errors.Is(err, relay.ErrInvalid):
		problem = event.NewProblem(http.StatusUnprocessableEntity, strings.TrimPrefix(err.Error(), relay.ErrInvalid.Error()+": "))
	case errors.Is(err, relay.ErrReadOnly):
		problem = event.NewProblem(http.StatusForbidden, err.Error())
	case errors.Is(err, relay.ErrExists), errors.Is(err, queue.ErrConflict):
		problem = event.NewProblem(http.StatusConflict, err.Error())
	case errors.Is(err, queue.ErrFull):
		problem = event.NewProblem(http.StatusServiceUnavailable, err.Error())
	case errors.Is(err, queue.ErrClosed):
		problem = event.NewProblem(http.StatusServiceUnavailable, "The relay is starting or stopping. Try again.")
	default:
		a.log.Error("answering the API", "path", r.URL.Path, "error", err)
		problem = event.NewProblem(http.StatusInternalServerError, "The log has the reason.")
	}
	return problem
}

// write sends a value as JSON.
func (a *api) write(w http.ResponseWriter, r *http.Request, status int, contentType string, value any) {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false) // an event's body is shown byte for byte
	if err := encoder.Encode(value); err != nil {
		a.log.Error("encoding an API answer", "path", r.URL.Path, "error", err)
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes()) // the client may have gone
}

func (a *api) methodNotAllowed(methods []string) http.Handler {
	if slices.Contains(methods, "GET") {
		methods = append(methods, "HEAD")
	}
	slices.Sort(methods)
	allow := strings.Join(methods, ", ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", allow)
		a.fail(w, r, event.NewProblem(http.StatusMethodNotAllowed, "This resource takes "+allow+"."))
	})
}

func (a *api) unknownPath(w http.ResponseWriter, r *http.Request) {
	a.fail(w, r, event.NewProblem(http.StatusNotFound, "There is /openapi.json, which describes /status, /healthz, /webhooks, /deliveries, /events, /activity and /stream."))
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
