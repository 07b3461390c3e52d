package badgerqueue

import (
	"maps"
	"sync"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/layout"
	"github.com/userhero/relay/queue/badgerqueue/storeclock"
)

// webhookState holds a webhook's counters, cursors and leases in memory, and the news
// that the committer has for its open lane.
type webhookState struct {
	id     queue.WebhookID
	bounds bounds

	// The committer owns these three. counts are as of the last commit. written has the
	// marks of the webhook's lane record on the disk, and is nil if there is none. lags is
	// set if that record does not count all commits: see lagging.
	counts  queue.Counts
	written map[uint8]int64
	lags    bool

	mu sync.Mutex // guards everything below; Store declares the order of the locks
	// shown is counts as of the last commit.
	shown   queue.Counts
	marks   layout.Marks
	expires bool
	lane    *laneSignals // nil: no lane is open
	// leased holds the leased deliveries, by sequence number, until their settlement is
	// committed. So a lane never leases a delivery twice.
	leased map[uint64]*leased
	// moving holds deliveries that wait, and that the current commit requeues or ends. A
	// ticket for one of them names its old due time.
	moving map[uint64]bool
	inbox  inbox
	// freshSince is when the lane's first fresh delivery began to wait, and due is when its
	// first retry is due. They are zero if it has none.
	freshSince time.Time
	due        int64
}

// leased is one leased delivery.
type leased struct {
	lease    *queue.Lease
	ticket   ticket
	settling bool // its settlement waits for the commit
}

// laneSignals let other goroutines wake or close an open lane.
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
	event *queue.Event // nil: not read yet
	again bool         // the delivery was leased before, and may have changed since
}

// names reports whether the delivery still waits with the rung and due time of the ticket.
func (t ticket) names(d delivery) bool {
	if t.fresh {
		return d.fresh()
	}
	return d.state.Waiting() && d.at == t.due && d.rung == t.rung
}

func (t ticket) at() layout.Waiting { return layout.Waiting{Due: t.due, Seq: t.seq} }

// inbox holds the committer's news for an open lane.
type inbox struct {
	// fresh holds new events of this webhook, in order and without a gap.
	fresh []*queue.Event
	bytes int
	// behind is set if fresh does not hold all new events, because the lane has not read
	// the earlier ones yet or was too slow. The lane reads the missing ones from disk.
	behind bool
	// waiting holds new R keys.
	waiting []ticket
	// lost is set if the lane's windows no longer agree with the store. The lane must then
	// read everything again.
	lost bool
	// returned holds deliveries that were leased and are due again at once.
	returned []ticket
}

func newWebhookState(id queue.WebhookID, b bounds) *webhookState {
	return &webhookState{
		id:     id,
		bounds: b,
		marks:  layout.Marks{Fresh: 1, Due: make(map[uint8]int64)},
		leased: make(map[uint64]*leased),
		moving: make(map[uint64]bool),
	}
}

// pushFresh puts a new event into the inbox. The caller calls wake later.
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

// pushWaiting puts a new R key into the inbox.
func (h *webhookState) pushWaiting(t ticket) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if low, ok := h.marks.Due[t.rung]; !ok || t.due < low {
		h.marks.Due[t.rung] = t.due
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

// endLocked ends a lease. It clears the entry, because the entry shares its memory with
// other leases of the same call, and would keep the event in memory.
func (h *webhookState) endLocked(seq uint64) {
	if out := h.leased[seq]; out != nil {
		*out = leased{}
		delete(h.leased, seq)
	}
}

// move marks a waiting delivery as moving. It returns false if the delivery is leased. The
// caller must call moved after the commit, or stays if there is no commit.
func (h *webhookState) move(seq uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.isOutLocked(seq) {
		return false
	}
	h.moving[seq] = true
	return true
}

// isLeased reports whether a delivery is leased and no settlement of it waits for the
// commit.
func (h *webhookState) isLeased(seq uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.isOutLocked(seq)
}

func (h *webhookState) isOutLocked(seq uint64) bool {
	out := h.leased[seq]
	return out != nil && !out.settling
}

// moved ends a move after the commit. The lane reads its windows again, because one of
// them may hold the old due time.
func (h *webhookState) moved(seq uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.moving, seq)
	if h.lane != nil {
		h.inbox.lost = true
		h.lane.signal()
	}
}

// stays ends a move that was not committed.
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

// wake makes an open lane check for due deliveries.
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

// storedMarks returns a copy of the marks that is low enough for the added tickets.
func (h *webhookState) storedMarks(added []ticket) layout.Marks {
	h.mu.Lock()
	m := layout.Marks{Fresh: h.marks.Fresh, Due: maps.Clone(h.marks.Due)}
	h.mu.Unlock()
	for _, t := range added {
		if low, ok := m.Due[t.rung]; !ok || t.due < low {
			m.Due[t.rung] = t.due
		}
	}
	return m
}

// keeps reports whether the lane record on the disk may stay as it is: the lane finds
// the added tickets from there.
func (h *webhookState) keeps(added []ticket) bool {
	for _, t := range added {
		if low, ok := h.written[t.rung]; !ok || t.due < low { // Promise 1: after a crash the lane finds what waits.
			return false
		}
	}
	return h.written != nil
}

// laneSize returns at least as many bytes as the lane record takes in a transaction.
func (h *webhookState) laneSize() int { return 64 + 11*len(h.written) }

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

// closeLane closes the open lane. Leases that were not settled are lost, and their
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
