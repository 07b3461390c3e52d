package intake

import (
	"cmp"
	"hash/maphash"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
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

// maxKeys bounds how many keys a limiter remembers in a generation. Those beyond the
// bound begin again: a limit that forgets is better than one that lets a flood of
// addresses take all memory.
const maxKeys = 1 << 16

// Limit is a rate with a burst.
type Limit struct {
	// Events may come in the time Per. Both must be above zero.
	Events int
	Per    time.Duration
	// Burst may come at once. Default: Events.
	Burst int
}

// limiter applies a limit by the generic cell rate algorithm. It needs one number for
// each key: the time at which the key's bucket is full again.
type limiter struct {
	every time.Duration // one submission's worth
	burst time.Duration // what a full bucket is worth
	seed  maphash.Seed

	mu sync.Mutex // guards everything below
	// current and previous are two generations of keys: when a full bucket is due, in
	// nanoseconds since 1970, by a hash of the key. When current has maxKeys, it becomes
	// previous, and the previous one is forgotten.
	current, previous map[uint64]int64
}

// newLimiter returns nil for no limit.
func newLimiter(l *Limit) *limiter {
	if l == nil {
		return nil
	}
	every := l.Per / time.Duration(l.Events)
	return &limiter{
		every: every, burst: every * time.Duration(cmp.Or(l.Burst, l.Events)), seed: maphash.MakeSeed(),
		current: make(map[uint64]int64), previous: make(map[uint64]int64),
	}
}

// take takes one submission of a key from its bucket, or returns how long to wait until
// there is one.
func (l *limiter) take(key string, at time.Time) (wait time.Duration) {
	hash, now := maphash.String(l.seed, key), at.UnixNano()
	l.mu.Lock()
	defer l.mu.Unlock()
	full, ok := l.current[hash]
	if !ok {
		full = l.previous[hash]
	}
	full = max(full, now) + int64(l.every)
	if over := full - now - int64(l.burst); over > 0 {
		return time.Duration(over)
	}
	if len(l.current) >= maxKeys && !ok {
		l.previous, l.current = l.current, make(map[uint64]int64)
	}
	l.current[hash] = full
	return 0
}
