// Package intake is the way in: it takes feedback over HTTP and hands it on as
// events.
//
// It promises that a 2xx answer means that the event is on disk, that every
// refusal says what to change (RFC 9457), and that memory is bounded whatever a
// client sends. A Handler answers submissions itself, or watches an application
// that does (Pass).
//
// It does not know Caddy, the relay or a queue engine: a Relay stores and finds
// events, functions of a Config resolve what depends on the site, and an Observer
// counts. Of package queue it uses the records and errors.
//
// Its tests send requests to net/http servers; a queue in memory is the store.
package intake

import (
	"cmp"
	"context"
	"net/http"
	"net/netip"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
)

// Relay stores events and finds those it holds. Errors are those of queue.Queue's
// methods.
type Relay interface {
	// Accept stores an event with a delivery for each webhook that wants it, and
	// returns when both are on disk. The entry has neither Created, Webhooks nor
	// Trace. submission is the header of the request, which may hold the client's
	// trace context.
	Accept(ctx context.Context, e queue.Entry, submission http.Header) (queue.Receipt, error)
	// Repeat returns the receipt of the submission that used an idempotency key.
	Repeat(ctx context.Context, key queue.Key) (queue.Receipt, error)
	// Latest returns the newest event of a feedback.
	Latest(ctx context.Context, id queue.FeedbackID) (queue.Event, error)
	// Projects returns at most limit projects that hold feedback with this id.
	Projects(ctx context.Context, id string, limit int) ([]string, error)
	// KeepCaught keeps what a honeypot has caught.
	KeepCaught(ctx context.Context, c queue.Caught) error
}

// Observer counts what the intake does. Its methods must not block.
type Observer interface {
	// Ingested reports a submission that is stored: the time since it arrived, and
	// the trace of its event.
	Ingested(took time.Duration, t queue.TraceContext)
	// Rejected reports a submission that made no event. The reason is one of a
	// fixed list.
	Rejected(reason string)
	// Missed reports a submission that the next handler has accepted and that made
	// no event. The reason is one of MissedReasons.
	Missed(reason string)
}

// Bounds of Config.MaxBody in bytes. A finished document is at most 100 KiB
// (event.MaxDocument), so a larger submission could only be refused later.
const (
	DefaultMaxBody = 64 << 10
	LargestMaxBody = 1 << 20
)

// Config is what a Handler needs. Relay, Observer and Log are required.
type Config struct {
	Relay    Relay
	Observer Observer
	Log      *Log

	// Project returns the project whose feedback a request may create, read and
	// change; empty lets the submission name its own. Widget returns the widgetId of
	// submissions that have none. An error means that the request's address belongs
	// to no project or widget. Default: empty.
	Project, Widget func(*http.Request) (string, error)
	// Token returns the bearer token that allows an update; empty or an error allows
	// none. User returns the id of the user that the server has authenticated, or
	// an empty string; a user may update. Default: empty.
	Token func(*http.Request) (string, error)
	User  func(*http.Request) string
	// Client returns the address of the client; the zero value is unknown.
	// Default: unknown.
	Client func(*http.Request) netip.Addr
	// Country returns the country of an address as two letters, or an empty string.
	// Default: none.
	Country func(netip.Addr) string

	// AllowOrigins are the origins whose pages may submit, or "*" for all.
	AllowOrigins []string
	// MaxBody is the largest body in bytes. Default: DefaultMaxBody.
	MaxBody int64
	// CountryHeader is the request header field that holds the country.
	CountryHeader string
	// Honeypot is the member that people do not see.
	Honeypot string
	// ClientLimit and ProjectLimit bound what one client address may submit, and
	// what may be submitted for one project. Default: no limit.
	ClientLimit, ProjectLimit *Limit
}

// Handler takes in feedback: POST creates it, PATCH and PUT on …/{id} change it.
type Handler struct {
	relay    Relay
	observer Observer
	log      *Log

	project, widget, token func(*http.Request) (string, error)
	user                   func(*http.Request) string
	client                 func(*http.Request) netip.Addr
	country                func(netip.Addr) string // nil: none

	cors              cors
	maxBody           int64
	countryHeader     string
	honeypot          string
	clients, projects *limiter
}

// New returns a handler. It is an error if an origin is none.
func New(c Config) (*Handler, error) {
	cors, err := newCORS(c.AllowOrigins)
	if err != nil {
		return nil, err
	}
	nothing := func(*http.Request) (string, error) { return "", nil }
	h := &Handler{
		relay: c.Relay, observer: c.Observer, log: c.Log,
		project: nothing, widget: nothing, token: nothing,
		user:   func(*http.Request) string { return "" },
		client: func(*http.Request) netip.Addr { return netip.Addr{} },
		cors:   cors, country: c.Country, countryHeader: c.CountryHeader, honeypot: c.Honeypot,
		maxBody: cmp.Or(c.MaxBody, DefaultMaxBody),
		clients: newLimiter(c.ClientLimit), projects: newLimiter(c.ProjectLimit),
	}
	if c.Project != nil {
		h.project = c.Project
	}
	if c.Widget != nil {
		h.widget = c.Widget
	}
	if c.Token != nil {
		h.token = c.Token
	}
	if c.User != nil {
		h.user = c.User
	}
	if c.Client != nil {
		h.client = c.Client
	}
	return h, nil
}

// ServeHTTP answers a submission, a preflight, or 405.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.cors.allow(w.Header(), r.Header)
	switch r.Method {
	case http.MethodPost, http.MethodPatch, http.MethodPut:
		if err := h.limitClient(r); err != nil {
			h.refuse(w, r, err)
			return
		}
		if r.Method == http.MethodPost {
			h.create(w, r)
		} else {
			h.update(w, r)
		}
	case http.MethodOptions:
		h.cors.preflight(w, r)
	default:
		w.Header().Set("Allow", allowedMethods)
		refuseUnread(w, r, event.NewProblem(http.StatusMethodNotAllowed, "Send feedback with POST, change it with PATCH or PUT on its id."), lingering)
	}
}
