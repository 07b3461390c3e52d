// Package api is the JSON API of the relay: it shows what the relay does and has
// done, and changes webhooks. Its types are those that console pages, commands and
// the OpenAPI document share.
//
// It promises that a read costs the relay little (counters, and pages of bounded
// size by cursor), that no answer holds a secret, and that every error is a problem
// in the format of RFC 9457. It does not know who may ask: it is mounted where that
// has been decided. Its tests hold every answer against openapi.json.
package api

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
	// Ending is asked a few times a second while a stream is open; true ends it.
	// Whoever serves requests says so when the server is about to wait for them.
	// Default: never.
	Ending func() bool
	// Heartbeat is how often a silent stream says that it is alive. Default: 15 s.
	Heartbeat time.Duration
	// Logger gets the errors that are not the client's. Default: none.
	Logger *slog.Logger
}

// server holds the options; all state it has of its own is how many listen.
type server struct {
	relay     *relay.Relay
	queue     queue.Queue
	version   string
	started   time.Time
	ending    func() bool
	heartbeat time.Duration
	log       *slog.Logger
	streams   atomic.Int64
}

// New returns the API. Its paths are relative: mount it with http.StripPrefix.
func New(o Options) http.Handler {
	s := &server{
		relay: o.Relay, queue: o.Relay.Queue(), version: o.Version, started: o.Started,
		ending: o.Ending, heartbeat: o.Heartbeat, log: o.Logger,
	}
	if s.ending == nil {
		s.ending = func() bool { return false }
	}
	if s.heartbeat <= 0 {
		s.heartbeat = defaultHeartbeat
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s.handler()
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	allow := make(map[string][]string)
	for _, r := range s.routes() {
		mux.Handle(r.method+" "+r.path, r.handler)
		allow[r.path] = append(allow[r.path], r.method)
	}
	for path, methods := range allow {
		mux.Handle(path, s.methodNotAllowed(methods))
	}
	mux.HandleFunc("/", s.unknownPath)
	// A page of another origin must not act in the name of who is logged in
	// here. What is no browser sends neither of the fields this looks at.
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, event.NewProblem(http.StatusForbidden, "Requests of another origin may not change anything."))
	}))
	return protection.Handler(mux)
}

// route is one request of the API.
type route struct {
	method, path string
	handler      http.Handler
}

func (s *server) routes() []route {
	return []route{
		{"GET", "/status", s.answer(s.status)},
		{"GET", "/healthz", s.answer(s.health)},
		{"GET", "/openapi.json", s.answer(s.describe)},
		{"GET", "/webhooks", s.answer(s.webhooks)},
		{"POST", "/webhooks", s.answer(s.addWebhook)},
		{"GET", "/webhooks/{name}", s.answer(s.webhook)},
		{"PATCH", "/webhooks/{name}", s.answer(s.changeWebhook)},
		{"DELETE", "/webhooks/{name}", s.answer(s.deleteWebhook)},
		{"POST", "/webhooks/{name}/enable", s.answer(s.enableWebhook)},
		{"POST", "/webhooks/{name}/disable", s.answer(s.disableWebhook)},
		{"POST", "/webhooks/{name}/test", s.answer(s.testWebhook)},
		{"POST", "/webhooks/{name}/rotate", s.answer(s.rotateSecret)},
		{"POST", "/webhooks/{name}/redeliver", s.answer(s.recoverWebhook)},
		{"GET", "/deliveries", s.answer(s.deliveries)},
		{"GET", "/deliveries/{id}", s.answer(s.delivery)},
		{"POST", "/deliveries/{id}/redeliver", s.answer(s.redeliver)},
		{"GET", "/events", s.answer(s.events)},
		{"GET", "/events/{id}", s.answer(s.event)},
		{"GET", "/activity", s.answer(s.activity)},
		{"GET", "/stream", http.HandlerFunc(s.stream)},
	}
}

// created is an answer of status 201.
type created struct{ value any }

// answer writes what a request is answered with: the value, or the error as a
// problem.
func (s *server) answer(do func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		value, err := do(r)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		status := http.StatusOK
		if c, ok := value.(created); ok {
			status, value = http.StatusCreated, c.value
		}
		s.write(w, r, status, "application/json", value)
	})
}

// fail answers with a problem.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	problem := Problem(r, err, s.log)
	s.write(w, r, problem.Status, "application/problem+json", problem)
}

// Problem is what a client is told about an error. What is not the client's
// doing is logged, and told without its insides.
func Problem(r *http.Request, err error, log *slog.Logger) (problem *event.Problem) {
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
		log.Error("answering the API", "path", r.URL.Path, "error", err)
		problem = event.NewProblem(http.StatusInternalServerError, "The log has the reason.")
	}
	return problem
}

// write sends a value as JSON.
func (s *server) write(w http.ResponseWriter, r *http.Request, status int, contentType string, value any) {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false) // an event's body is shown byte for byte
	if err := encoder.Encode(value); err != nil {
		s.log.Error("encoding an API answer", "path", r.URL.Path, "error", err)
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

func (s *server) methodNotAllowed(methods []string) http.Handler {
	if slices.Contains(methods, "GET") {
		methods = append(methods, "HEAD")
	}
	slices.Sort(methods)
	allow := strings.Join(methods, ", ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", allow)
		s.fail(w, r, event.NewProblem(http.StatusMethodNotAllowed, "This resource takes "+allow+"."))
	})
}

func (s *server) unknownPath(w http.ResponseWriter, r *http.Request) {
	s.fail(w, r, event.NewProblem(http.StatusNotFound, "There is /openapi.json, which describes /status, /healthz, /webhooks, /deliveries, /events, /activity and /stream."))
}

// Page is one page of a list.
type Page[T any] struct {
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
