package badgerqueue

import (
	"maps"
	"sync"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/storeclock"
)

// webhookState holds a webhook's counters, cursors and leases in memory, and what
// the committer has to tell its open lane.
type webhookState struct {
	id     queue.WebhookID
	bounds bounds

	counts queue.Counts // as of the last commit; owned by the committer

	mu sync.Mutex // guards everything below; its place in the order of the locks: see Store
	// shown is counts as of the last commit.
	shown   queue.Counts
	marks   marks
	expires bool
	lane    *laneSignals // nil: no lane is open
	// leased are the deliveries that are out, by sequence number, until the
	// commit that settles them: a lane never hands one out twice.
	leased map[uint64]*leased
	// moving are deliveries that the commit under way requeues while they wait:
	// a ticket for one names a place it is about to leave.
	moving map[uint64]bool
	inbox  inbox
	// freshSince and due are since when the lane's first fresh delivery has
	// waited and when its first retry is due; zero where it has none.
	freshSince time.Time
	due        int64
}

// leased is one delivery that is out.
type leased struct {
	lease    *queue.Lease
	ticket   ticket
	settling bool // its settlement is on its way to the disk
}

// laneSignals are how others reach an open lane: they wake it or close it.
type laneSignals struct {
	wake   chan struct{} // of capacity 1
	closed chan struct{}
}

// signal wakes Next.
func (s *laneSignals) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// ticket is a lane's claim on one delivery.
type ticket struct {
	seq   uint64
	fresh bool
	rung  uint8 // of its R key, unless fresh
	due   int64
	event *queue.Event // nil: to be read
	again bool         // was out before: the delivery may have moved since
}

// names reports whether the delivery still waits where the ticket says.
func (t ticket) names(d delivery) bool {
	if t.fresh {
		return d.fresh()
	}
	return d.state.Waiting() && d.at == t.due && d.rung == t.rung
}

func (t ticket) at() waiting { return waiting{due: t.due, seq: t.seq} }

// inbox is what the committer tells an open lane.
type inbox struct {
	// fresh are new events of this webhook, in order and without a gap.
	fresh []*queue.Event
	bytes int
	// behind says that events came which fresh does not hold, because the lane
	// has not yet read up to them or did not keep up; it finds them on disk.
	behind bool
	// waiting are new R keys.
	waiting []ticket
	// lost says that the lane's windows no longer agree with the store, and it
	// must read everything anew.
	lost bool
	// returned were leased and given back for at once.
	returned []ticket
}

func newWebhookState(id queue.WebhookID, b bounds) *webhookState {
	return &webhookState{
		id:     id,
		bounds: b,
		marks:  marks{fresh: 1, due: make(map[uint8]int64)},
		leased: make(map[uint64]*leased),
		moving: make(map[uint64]bool),
	}
}

// pushFresh tells of a new event; wake is called later.
func (h *webhookState) pushFresh(e *queue.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lane == nil || h.inbox.behind {
		return
	}
	if len(h.inbox.fresh) >= h.bounds.fresh || h.inbox.bytes+len(e.Body) > h.bounds.freshBytes && len(h.inbox.fresh) > 0 {
		h.inbox.behind = true
		return
	}
	h.inbox.fresh = append(h.inbox.fresh, e)
	h.inbox.bytes += len(e.Body)
}

// pushWaiting tells of a new R key.
func (h *webhookState) pushWaiting(t ticket) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if low, ok := h.marks.due[t.rung]; !ok || t.due < low {
		h.marks.due[t.rung] = t.due
	}
	if h.lane == nil {
		return
	}
	if len(h.inbox.waiting) >= h.bounds.told {
		h.inbox.lost = true
	} else {
		h.inbox.waiting = append(h.inbox.waiting, t)
	}
	h.lane.signal()
}

// settled ends a lease whose settlement is on disk.
func (h *webhookState) settled(seq uint64) {
	h.mu.Lock()
	h.endLocked(seq)
	h.mu.Unlock()
}

// endLocked ends what is out. It lets go of what that held: the memory is shared
// with others that went out at the same time.
func (h *webhookState) endLocked(seq uint64) {
	if out := h.leased[seq]; out != nil {
		*out = leased{}
		delete(h.leased, seq)
	}
}

// move says that a waiting delivery is about to wait elsewhere, unless it is out
// on lease. moved must follow after the commit, or stays without one.
func (h *webhookState) move(seq uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.isOutLocked(seq) {
		return false
	}
	h.moving[seq] = true
	return true
}

// isLeased reports whether a delivery is out; one whose settlement is on its way
// to the disk is not any more.
func (h *webhookState) isLeased(seq uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.isOutLocked(seq)
}

func (h *webhookState) isOutLocked(seq uint64) bool {
	out := h.leased[seq]
	return out != nil && !out.settling
}

// moved makes the lane read its windows anew: one of them had the old place.
func (h *webhookState) moved(seq uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.moving, seq)
	if h.lane != nil {
		h.inbox.lost = true
		h.lane.signal()
	}
}

// stays takes back that a delivery is about to wait elsewhere.
func (h *webhookState) stays(seq uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.moving, seq)
}

func (h *webhookState) parked() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.expires
}

// wake has an open lane look again.
func (h *webhookState) wake() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lane != nil {
		h.lane.signal()
	}
}

// show publishes the counters of a commit.
func (h *webhookState) show(c queue.Counts) {
	h.counts = c
	h.mu.Lock()
	h.shown = c
	h.mu.Unlock()
}

// storedMarks is a copy of the marks, lowered to what this commit adds.
func (h *webhookState) storedMarks(added []ticket) marks {
	h.mu.Lock()
	m := marks{fresh: h.marks.fresh, due: maps.Clone(h.marks.due)}
	h.mu.Unlock()
	for _, t := range added {
		if low, ok := m.due[t.rung]; !ok || t.due < low {
			m.due[t.rung] = t.due
		}
	}
	return m
}

func (h *webhookState) stats(c *storeclock.Clock) queue.WebhookStats {
	h.mu.Lock()
	defer h.mu.Unlock()
	st := queue.WebhookStats{Counts: h.shown}
	if h.lane == nil {
		return st
	}
	since := h.freshSince
	if since.IsZero() && len(h.inbox.fresh) > 0 {
		since = h.inbox.fresh[0].Created
	}
	if h.due != 0 && h.due <= c.Now().UnixNano() {
		if due := c.Wall(h.due); since.IsZero() || due.Before(since) {
			since = due
		}
	}
	st.OldestDue = since
	return st
}

// closeLane ends the open lane. Leases that were not settled are lost: the
// deliveries wait for the next lane.
func (h *webhookState) closeLane() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closeLaneLocked()
}

func (h *webhookState) closeLaneLocked() {
	if h.lane == nil {
		return
	}
	close(h.lane.closed)
	h.lane = nil
	h.inbox = inbox{}
	h.freshSince, h.due = time.Time{}, 0
	for seq, l := range h.leased {
		if !l.settling {
			h.endLocked(seq)
		}
	}
}
