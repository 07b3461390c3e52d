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

// maxLimited bounds how many addresses or projects a limit remembers at once.
// Those beyond the bound begin anew: a limit that forgets is better than one
// that a flood of addresses makes eat memory.
const maxLimited = 1 << 16

// Limit is a rate with a burst.
type Limit struct {
	// Events may come in the time Per.
	Events int
	Per    time.Duration
	// Burst may come at once. Default: Events.
	Burst int
}

// limiter is a limit at work: the generic cell rate algorithm, which needs one
// number a key, the time at which its bucket will be full again.
type limiter struct {
	every time.Duration // one submission's worth
	burst time.Duration // what a full bucket is worth
	seed  maphash.Seed

	mu sync.Mutex
	// now and before are two generations of keys. When now is full it becomes
	// before, and what was before is forgotten.
	now, before map[uint64]int64
}

// newLimiter returns nil for no limit.
func newLimiter(l *Limit) *limiter {
	if l == nil {
		return nil
	}
	every := l.Per / time.Duration(l.Events)
	return &limiter{
		every: every, burst: every * time.Duration(cmp.Or(l.Burst, l.Events)), seed: maphash.MakeSeed(),
		now: make(map[uint64]int64), before: make(map[uint64]int64),
	}
}

// take asks for one submission of a key; wait is how long to stay away where
// there is none.
func (l *limiter) take(key string, at time.Time) (wait time.Duration) {
	hash, now := maphash.String(l.seed, key), at.UnixNano()
	l.mu.Lock()
	defer l.mu.Unlock()
	full, ok := l.now[hash]
	if !ok {
		full = l.before[hash]
	}
	full = max(full, now) + int64(l.every)
	if over := full - now - int64(l.burst); over > 0 {
		return time.Duration(over)
	}
	if len(l.now) >= maxLimited && !ok {
		l.before, l.now = l.now, make(map[uint64]int64)
	}
	l.now[hash] = full
	return 0
}

// errLimited is the refusal of a client or a project that sends too much.
type errLimited struct {
	who  string
	wait time.Duration
}

func (e errLimited) Error() string { return e.who + " sends too much" }

func (e errLimited) problem() *event.Problem {
	return event.NewProblem(http.StatusTooManyRequests, "Too many submissions from this "+e.who+". Try again later.")
}

// retryAfter is the time to stay away, in whole seconds.
func (e errLimited) retryAfter() string {
	return strconv.FormatInt(int64((e.wait+time.Second-1)/time.Second), 10)
}

// limitClient counts a request against its client's limit.
func (h *Handler) limitClient(r *http.Request) error {
	if h.clients == nil {
		return nil
	}
	if wait := h.clients.take(clientOf(r, h.client(r)), time.Now()); wait > 0 {
		return errLimited{"address", wait}
	}
	return nil
}

// limitProject counts a submission against its project's limit.
func (h *Handler) limitProject(project string) error {
	if h.projects == nil {
		return nil
	}
	if wait := h.projects.take(project, time.Now()); wait > 0 {
		return errLimited{"project", wait}
	}
	return nil
}

// clientOf names a client for its limit. Of an IPv6 address the first half
// counts: the rest is one household's to choose.
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
