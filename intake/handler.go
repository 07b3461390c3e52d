// Package intake takes feedback in over HTTP: it reads submissions and stores them as
// events. A Handler answers submissions itself (ServeHTTP), or makes events of those that
// an application has accepted (Pass).
//
// It promises that a 2xx answer means that the event is on disk, that every refusal says
// what to change (RFC 9457), that a repeat of a submission makes no second event, and that
// memory is bounded whatever a client sends.
//
// It does not know Caddy, the relay or an engine of the queue. A Relay stores and finds
// events, an Observer counts, and functions in Config return what depends on the site: the
// project, the token, the address of the client. From package queue it uses records and
// errors.
//
// The tests send requests to a net/http server whose store is a queue in memory
// (site_test.go). Questions about browsers are put to node.
package intake

import (
	"cmp"
	"context"
	"net/http"
	"net/netip"
	"time"

	"github.com/userhero/relay/queue"
)

// Relay accepts events and looks up those it holds. Errors are those of queue.Queue's
// methods.
type Relay interface {
	// Accept stores an event with a delivery for each webhook that wants it, and
	// returns when both are on disk. The entry has neither Created, Webhooks nor
	// Trace. submission is the header of the request, which may hold the client's
	// trace context.
	Accept(ctx context.Context, e queue.Entry, submission http.Header) (queue.Receipt, error)
	// WithStore calls f with the store, which is open until f returns. The error is that
	// of f, or says why the store is not open.
	WithStore(f func(Store) error) error
}

// Store is the part of a queue.Queue that the intake uses besides accepting events.
type Store interface {
	Repeat(ctx context.Context, key queue.Key) (queue.Receipt, error)
	Latest(ctx context.Context, id queue.FeedbackID) (queue.Event, error)
	Projects(ctx context.Context, id string, limit int) ([]string, error)
	KeepCaught(ctx context.Context, c queue.Caught) error
}

// lookUp returns what look finds in the store.
func lookUp[T any](r Relay, look func(Store) (T, error)) (found T, err error) {
	err = r.WithStore(func(s Store) (err error) {
		found, err = look(s)
		return err
	})
	return found, err
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

	// Memory bounds what submissions hold in memory. Default: no bound.
	Memory *Memory
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

// Handler takes feedback in: POST creates it, PATCH and PUT on …/{id} change it.
type Handler struct {
	relay    Relay
	observer Observer
	log      *Log

	project, widget, token func(*http.Request) (string, error)
	user                   func(*http.Request) string
	client                 func(*http.Request) netip.Addr
	country                func(netip.Addr) string

	memory                  *Memory
	cors                    cors
	maxBody                 int64
	countryHeader, honeypot string
	clients, projects       *limiter // nil: no limit
}

// New returns a handler. It is an error if one of the AllowOrigins is not an origin.
func New(c Config) (*Handler, error) {
	cors, err := newCORS(c.AllowOrigins)
	if err != nil {
		return nil, err
	}
	for _, value := range []*func(*http.Request) (string, error){&c.Project, &c.Widget, &c.Token} {
		if *value == nil {
			*value = func(*http.Request) (string, error) { return "", nil }
		}
	}
	if c.User == nil {
		c.User = func(*http.Request) string { return "" }
	}
	if c.Client == nil {
		c.Client = func(*http.Request) netip.Addr { return netip.Addr{} }
	}
	if c.Country == nil {
		c.Country = func(netip.Addr) string { return "" }
	}
	return &Handler{
		relay: c.Relay, observer: c.Observer, log: c.Log,
		project: c.Project, widget: c.Widget, token: c.Token,
		user: c.User, client: c.Client, country: c.Country,
		memory: c.Memory, cors: cors, maxBody: cmp.Or(c.MaxBody, DefaultMaxBody), countryHeader: c.CountryHeader, honeypot: c.Honeypot,
		clients: newLimiter(c.ClientLimit), projects: newLimiter(c.ProjectLimit),
	}, nil
}
