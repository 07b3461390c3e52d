package intake

import (
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/userhero/relay/event"
)

// rateLimited refuses a client address or a project that sends too much.
type rateLimited struct {
	who  string // "address" or "project"
	wait time.Duration
}

func (e rateLimited) Error() string { return e.who + " sends too much" }

func (e rateLimited) problem() *event.Problem {
	return event.NewProblem(http.StatusTooManyRequests, "Too many submissions from this "+e.who+". Try again later.")
}

// retryAfter returns the time to wait, in whole seconds.
func (e rateLimited) retryAfter() string {
	return strconv.FormatInt(int64((e.wait+time.Second-1)/time.Second), 10)
}

// limitClient counts a request against its client's limit.
func (h *Handler) limitClient(r *http.Request) error {
	if h.clients == nil {
		return nil
	}
	return take(h.clients, "address", clientOf(r, h.client(r)))
}

// limitProject counts a submission against its project's limit.
func (h *Handler) limitProject(project string) error {
	if h.projects == nil {
		return nil
	}
	return take(h.projects, "project", project)
}

func take(l *limiter, who, key string) error {
	if wait := l.take(key, time.Now()); wait > 0 {
		return rateLimited{who, wait}
	}
	return nil
}

// clientOf returns the key of a client for its limit. Of an IPv6 address the first half
// counts: a household chooses the rest.
func clientOf(r *http.Request, addr netip.Addr) string {
	switch {
	case !addr.IsValid():
		return r.RemoteAddr
	case addr.Is6():
		if network, err := addr.Prefix(64); err == nil {
			return network.String()
		}
	}
	return addr.String()
}
