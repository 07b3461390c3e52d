// Package api is the JSON API of the relay: it shows what the relay does and has
// done, and changes webhooks. Its types are those that console pages, commands and
// the OpenAPI document share.
//
// It promises that a read costs the relay little (counters, and pages of bounded
// size by cursor), that no answer holds a secret, and that every error is a problem
// in the format of RFC 9457. It does not authenticate requests: the server that
// mounts it does. Its tests compare every answer with openapi.json.
package api

import (
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/userhero/relay/console/resend"
	"github.com/userhero/relay/console/scope"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/relay"
)

// AdminPath is the path of the API on Caddy's admin endpoint.
const AdminPath = "/userhero"

// Options are what the API and the console need.
type Options struct {
	// Relay has the webhooks and, through its queue, the events.
	Relay *relay.Relay
	// Scope is what of them is shown and changed. Default: everything.
	Scope scope.Scope
	// Resends are the actions on many deliveries, which all consoles of a relay share. Only
	// the console uses them. Default: its own.
	Resends *resend.All
	// Version is shown by /status.
	Version string
	// Started is when the relay started.
	Started time.Time
	// Ending reports whether the server is about to wait for its requests; open
	// streams then end. It is called a few times a second. Default: never.
	Ending func() bool
	// Heartbeat is the time between two comments on a silent stream. Default: 15 s.
	Heartbeat time.Duration
	// Logger gets the errors that are not the client's. Default: none.
	Logger *slog.Logger
}

// New returns the API. Its paths are relative: mount it with http.StripPrefix.
func New(o Options) http.Handler {
	view := scope.New(o.Relay, o.Scope)
	s := &server{
		relay: view, queue: view.Reader(), version: o.Version, started: o.Started,
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
	// A page of another origin must not act for the user who is logged in here.
	// Requests of programs that are no browser have none of the headers that this
	// checks.
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, event.NewProblem(http.StatusForbidden, "Requests from another origin may not change anything."))
	}))
	return protection.Handler(s.looksOnly(mux))
}

// looksOnly refuses every change if the scope is read-only.
func (s *server) looksOnly(next http.Handler) http.Handler {
	if !s.relay.ReadOnly() {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			s.fail(w, r, scope.ErrReadOnly)
			return
		}
		next.ServeHTTP(w, r)
	})
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
		{"POST", "/webhooks/{name}/preview", s.answer(s.previewBody)},
		{"POST", "/webhooks/{name}/rotate", s.answer(s.rotateSecret)},
		{"POST", "/webhooks/{name}/rotate-signing-key", s.answer(s.rotateSigningKey)},
		{"POST", "/webhooks/{name}/redeliver", s.answer(s.recoverWebhook)},
		{"GET", "/deliveries", s.answer(s.deliveries)},
		{"GET", "/deliveries/{id}", s.answer(s.delivery)},
		{"POST", "/deliveries/{id}/redeliver", s.answer(s.redeliver)},
		{"GET", "/events", s.answer(s.events)},
		{"GET", "/events/{id}", s.answer(s.event)},
		{"GET", "/feedback", http.HandlerFunc(s.export)},
		{"GET", "/feedback/{id}", s.answer(s.feedback)},
		{"DELETE", "/feedback/{id}", s.answer(s.eraseFeedback)},
		{"POST", "/erase", s.answer(s.erase)},
		{"GET", "/activity", s.answer(s.activity)},
		{"GET", "/stream", http.HandlerFunc(s.stream)},
	}
}

func (s *server) methodNotAllowed(methods []string) http.Handler {
	if slices.Contains(methods, "GET") {
		methods = append(methods, "HEAD")
	}
	slices.Sort(methods)
	allow := strings.Join(methods, ", ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", allow)
		s.fail(w, r, event.NewProblem(http.StatusMethodNotAllowed, "Use "+allow+" here."))
	})
}

func (s *server) unknownPath(w http.ResponseWriter, r *http.Request) {
	s.fail(w, r, event.NewProblem(http.StatusNotFound, "There is nothing at this path. /openapi.json describes /status, /healthz, /webhooks, /deliveries, /events, /feedback, /erase, /activity and /stream."))
}
