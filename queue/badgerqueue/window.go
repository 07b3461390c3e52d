package badgerqueue

import (
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/layout"
)

// rungWindow is the window of the deliveries that wait on one rung, by due time.
type rungWindow struct {
	window []layout.Waiting
	// more is set if the disk may hold keys from end on. If not, the window has all keys.
	more bool
	end  layout.Waiting
	// taken is the highest key that was ever leased. It is the low-water mark if the rung
	// has no waiting delivery.
	taken layout.Waiting
}

// lane implements queue.Lane. Its windows belong to the goroutine that calls Next;
// other goroutines reach it through the webhook's inbox.
//
// Every waiting delivery of the webhook is in exactly one place: in a window, leased, in
// the inbox, or on disk after the window's end.
type lane struct {
	laneSignals
	s   *Store
	h   *webhookState
	o   queue.LaneOptions
	out int // unsettled leases; guarded by h.mu

	returned []ticket
	// fresh is the window of deliveries that were never attempted. If tail is set, the
	// events from next on come through the inbox. If not, the lane reads them from disk.
	fresh []ticket
	next  uint64
	tail  bool
	rungs map[uint8]*rungWindow
	turn  bool // if both a retry and a fresh delivery are due, the retry goes first
	calls int
	timer *time.Timer
}

// isOpenLocked reports whether the lane is the webhook's open one.
func (l *lane) isOpenLocked() bool { return l.h.lane == &l.laneSignals }

// resetLocked drops the windows. The lane then reads everything again from the marks.
func (l *lane) resetLocked() {
	l.next, l.fresh, l.tail, l.returned = l.h.marks.Fresh, nil, false, nil
	clear(l.rungs)
	for r, due := range l.h.marks.Due {
		l.rungs[r] = &rungWindow{more: true, end: layout.Waiting{Due: due}, taken: layout.Waiting{Due: due}}
	}
	l.h.inbox = inbox{behind: true}
}

// drainLocked takes over the inbox. The lane must be the open one.
func (l *lane) drainLocked() {
	in := &l.h.inbox
	if in.lost {
		l.resetLocked() // returned deliveries are on disk too
		return
	}
	l.returned = append(l.returned, in.returned...)
	in.returned = in.returned[:0]
	for _, t := range in.waiting {
		l.insert(t)
	}
	in.waiting = in.waiting[:0]
	if len(l.fresh) > 0 {
		return
	}
	// The inbox continues where the window ended. If the lane is behind, the inbox may hold
	// events that are also on disk from next on.
	for _, e := range in.fresh {
		if seq := e.ID.Seq(); seq >= l.next {
			l.fresh = append(l.fresh, ticket{seq: seq, fresh: true, event: e})
			l.next = seq + 1
		}
	}
	clear(in.fresh)
	in.fresh, in.bytes = in.fresh[:0], 0
	l.tail = !in.behind
}

// insert puts a new R key into its rung's window. It drops a key after the window's end if
// the lane will read that key from disk.
func (l *lane) insert(t ticket) {
	r := l.rungs[t.rung]
	if r == nil {
		r = &rungWindow{}
		l.rungs[t.rung] = r
	}
	at := t.at()
	if r.more && !at.Less(r.end) {
		return
	}
	i, found := slices.BinarySearchFunc(r.window, at, compareWaiting)
	if found {
		return
	}
	r.window = slices.Insert(r.window, i, at)
	if len(r.window) > 2*l.h.bounds.window {
		r.window = slices.Clone(r.window[:l.h.bounds.window])
		r.more, r.end = true, next(r.window[l.h.bounds.window-1])
	}
}

func compareWaiting(a, b layout.Waiting) int {
	switch {
	case a.Less(b):
		return -1
	case b.Less(a):
		return 1
	}
	return 0
}

// next returns the first key after w.
func next(w layout.Waiting) layout.Waiting { return layout.Waiting{Due: w.Due, Seq: w.Seq + 1} }

func (l *lane) needsDisk() bool {
	if len(l.fresh) == 0 && !l.tail {
		return true
	}
	for _, r := range l.rungs {
		if r.more && len(r.window) == 0 {
			return true
		}
	}
	return false
}

// snapshot takes over the inbox and returns a snapshot that agrees with the lane: it has
// everything that was in the inbox, and nothing that comes into the inbox later. out holds
// the deliveries that the lane has leased, and those that were returned and wait to be
// leased again. If the lane was closed, ok is false. The caller must release the snapshot
// in either case.
func (l *lane) snapshot() (newest *snapshot, out map[uint64]bool, ok bool) {
	l.s.visible.Lock()
	defer l.s.visible.Unlock()
	newest = l.s.newestLocked()
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	if !l.isOpenLocked() {
		return newest, nil, false
	}
	l.drainLocked()
	if len(l.fresh) == 0 && !l.tail {
		l.h.inbox.behind = false // from now on the inbox has no gap
	}
	out = make(map[uint64]bool, len(l.h.leased)+len(l.returned))
	for seq := range l.h.leased {
		out[seq] = true
	}
	for _, t := range l.returned {
		out[t.seq] = true
	}
	return newest, out, true
}

// refill reads deliveries from disk into the windows that are empty.
func (l *lane) refill(txn *badger.Txn, out map[uint64]bool) error {
	if len(l.fresh) == 0 && !l.tail {
		atEnd, err := l.refillFresh(txn, out)
		if err != nil {
			return err
		}
		l.tail = atEnd
		if !atEnd {
			l.fallBehind()
			l.signal() // there is more to read, even if this call found nothing
		}
	}
	for n, r := range l.rungs {
		if r.more && len(r.window) == 0 {
			l.refillRung(txn, out, n, r)
		}
	}
	return nil
}

// fallBehind drops the new events in the inbox. The lane will read them from disk.
func (l *lane) fallBehind() {
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	if !l.isOpenLocked() {
		return
	}
	l.h.inbox.behind = true
	clear(l.h.inbox.fresh)
	l.h.inbox.fresh, l.h.inbox.bytes = l.h.inbox.fresh[:0], 0
}

// refillFresh reads B records from next on. It reports whether it read the last one.
func (l *lane) refillFresh(txn *badger.Txn, out map[uint64]bool) (atEnd bool, err error) {
	var ds deliveries
	budget := l.h.bounds.scan
	atEnd = true
	from := l.next
	err = scan(txn, []byte{layout.PrefixDeliveries}, layout.DeliveriesKey(from), func(key, rec []byte) (bool, error) {
		if budget--; budget < 0 || len(l.fresh) >= l.h.bounds.window {
			atEnd = false
			return false, nil
		}
		seq := layout.SeqOf(key)
		l.next = seq + 1
		var err error
		if ds, err = decodeDeliveries(ds[:0], key, rec); err != nil {
			// Report and skip the event: it cannot be delivered, but others can.
			_ = l.s.report("reading on in a lane", err)
			return true, nil
		}
		if d := ds.find(l.h.id); d != nil && d.fresh() && !out[seq] {
			l.fresh = append(l.fresh, ticket{seq: seq, fresh: true})
		}
		return true, nil
	})
	return atEnd, err
}

// refillRung reads R keys from the window's end on.
func (l *lane) refillRung(txn *badger.Txn, out map[uint64]bool, n uint8, r *rungWindow) {
	r.more = false
	prefix := append(layout.WaitingPrefix(l.h.id), n)
	scanKeys(txn, prefix, layout.WaitingKey(l.h.id, n, r.end), func(key []byte) bool {
		if len(r.window) >= l.h.bounds.window {
			r.more = true
			return false
		}
		_, at, ok := layout.ParseWaitingKey(key)
		if !ok {
			return true
		}
		r.end = next(at)
		if !out[at.Seq] {
			r.window = append(r.window, at)
		}
		return true
	})
}

// pick takes up to n tickets that are due: first the returned ones, then fresh ones and
// retries in turn.
func (l *lane) pick(n int, now int64) []ticket {
	var tickets []ticket
	for len(tickets) < n {
		if len(l.returned) > 0 {
			tickets = append(tickets, l.returned[0])
			l.returned = l.returned[1:]
			continue
		}
		r, due := l.firstDue(now)
		fresh := len(l.fresh) > 0
		if !fresh && r == nil {
			break
		}
		if fresh && (r == nil || !l.turn) {
			tickets = append(tickets, l.fresh[0])
			l.fresh = l.fresh[1:]
			l.turn = true
			continue
		}
		at := r.window[0]
		r.window = r.window[1:]
		if r.taken.Less(at) {
			r.taken = at
		}
		tickets = append(tickets, ticket{seq: at.Seq, rung: due, due: at.Due})
		l.turn = false
	}
	return tickets
}

// firstDue returns the rung whose first delivery is due earliest, or nil if none is due.
func (l *lane) firstDue(now int64) (first *rungWindow, n uint8) {
	for i, r := range l.rungs {
		if len(r.window) == 0 || r.window[0].Due > now {
			continue
		}
		if first == nil || r.window[0].Less(first.window[0]) {
			first, n = r, i
		}
	}
	return first, n
}

// wait returns the time until the first retry is due, or 0 if none waits.
func (l *lane) wait(now time.Time) time.Duration {
	var first int64
	for _, r := range l.rungs {
		if len(r.window) > 0 && (first == 0 || r.window[0].Due < first) {
			first = r.window[0].Due
		}
	}
	if first == 0 {
		return 0
	}
	return max(time.Duration(first-now.UnixNano()), time.Microsecond)
}

// headsLocked publishes when the lane's first fresh delivery began to wait, and when its
// first retry is due.
func (l *lane) headsLocked() {
	l.h.freshSince, l.h.due = time.Time{}, 0
	if len(l.fresh) > 0 && l.fresh[0].event != nil {
		l.h.freshSince = l.fresh[0].event.Created
	}
	for _, r := range l.rungs {
		if len(r.window) > 0 && (l.h.due == 0 || r.window[0].Due < l.h.due) {
			l.h.due = r.window[0].Due
		}
	}
}

// markLocked publishes the low-water marks. The inbox must hold no R keys: every key is in
// a window, leased, or after a window's end.
func (l *lane) markLocked() {
	fresh := l.next
	if len(l.fresh) > 0 {
		fresh = l.fresh[0].seq
	}
	if in := l.h.inbox.fresh; len(in) > 0 {
		fresh = min(fresh, in[0].ID.Seq())
	}
	due := make(map[uint8]int64, len(l.rungs))
	for n, r := range l.rungs {
		switch {
		case len(r.window) > 0:
			due[n] = r.window[0].Due
		case r.more:
			due[n] = r.end.Due
		default:
			due[n] = r.taken.Due
		}
	}
	lower := func(t ticket) {
		if t.fresh {
			fresh = min(fresh, t.seq)
		} else {
			due[t.rung] = min(due[t.rung], t.due)
		}
	}
	for _, t := range l.returned {
		lower(t)
	}
	for _, out := range l.h.leased {
		lower(out.ticket)
	}
	l.h.marks.Fresh = fresh
	l.h.marks.Due = due
}
