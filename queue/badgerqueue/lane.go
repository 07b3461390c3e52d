package badgerqueue

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
)

const (
	// leaseBytes bounds the bodies read from disk for one call of Next.
	leaseBytes = 4 << 20
	// markEvery is after how many calls the low-water marks are published.
	markEvery = 64
)

// lane implements queue.Lane. Its windows belong to the goroutine that calls
// Next; what others tell it comes through the webhook's inbox.
//
// What the lane knows is exact: every waiting delivery of the webhook is either
// in a window, out on lease, in the inbox, or on disk behind the window's end,
// and never in two of these.
type lane struct {
	s      *Store
	h      *webhookState
	o      queue.LaneOptions
	wake   chan struct{} // of capacity 1
	closed chan struct{}
	out    int // unsettled leases; guarded by h.mu

	returned []ticket
	// fresh is the window of deliveries never attempted; those from next on
	// come through the inbox when tail, else they are read from disk.
	fresh []ticket
	next  uint64
	tail  bool
	rungs map[uint8]*rung
	turn  bool // whose turn it is, where both are due: fresh when false
	calls int
	timer *time.Timer
}

// rung is the window of the deliveries that wait on one rung, by due time.
type rung struct {
	window []waiting
	// more says that there are keys behind end on disk; else the window has
	// them all.
	more bool
	end  waiting
	// taken is the highest key ever handed out: where nothing lower waits, the
	// low-water mark.
	taken waiting
}

// Lane implements queue.Queue.
func (s *Store) Lane(w queue.WebhookID, o queue.LaneOptions) (queue.Lane, error) {
	if err := s.begin(); err != nil {
		return nil, err
	}
	defer s.end()
	h := s.webhook(w)
	if h == nil {
		return nil, fmt.Errorf("webhook %d: %w", w, queue.ErrNotFound)
	}
	if o.MaxInFlight <= 0 {
		o.MaxInFlight = 8
	}
	l := &lane{
		s: s, h: h, o: o,
		wake:   make(chan struct{}, 1),
		closed: make(chan struct{}),
		rungs:  make(map[uint8]*rung),
		timer:  time.NewTimer(time.Hour),
	}
	l.timer.Stop()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lane != nil {
		return nil, fmt.Errorf("webhook %d has an open lane: %w", w, queue.ErrConflict)
	}
	h.lane = l
	l.resetLocked()
	return l, nil
}

// resetLocked forgets the windows: everything is read anew from the marks.
func (l *lane) resetLocked() {
	l.next, l.fresh, l.tail, l.returned = l.h.marks.fresh, nil, false, nil
	clear(l.rungs)
	for r, due := range l.h.marks.due {
		l.rungs[r] = &rung{more: true, end: waiting{due: due}, taken: waiting{due: due}}
	}
	l.h.inbox = inbox{behind: true}
}

// Close implements queue.Lane.
func (l *lane) Close() error {
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	if l.h.lane == l {
		l.h.closeLaneLocked()
	}
	return nil
}

// signal wakes Next.
func (l *lane) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Next implements queue.Lane.
func (l *lane) Next(ctx context.Context, max int) ([]*queue.Lease, error) {
	for {
		leases, wait, err := l.poll(ctx, max)
		if err != nil || len(leases) > 0 {
			return leases, err
		}
		var due <-chan time.Time
		if wait > 0 {
			l.timer.Reset(wait)
			due = l.timer.C
		}
		select {
		case <-l.wake:
		case <-due:
		case <-ctx.Done():
		case <-l.closed:
		}
		l.timer.Stop()
	}
}

// poll returns what can be leased now, or how long until something is due (0:
// until woken).
func (l *lane) poll(ctx context.Context, max int) ([]*queue.Lease, time.Duration, error) {
	if err := l.s.begin(); err != nil {
		return nil, 0, err
	}
	defer l.s.end()
	select {
	case <-l.closed:
		return nil, 0, queue.ErrClosed
	case <-ctx.Done():
		return nil, 0, context.Cause(ctx)
	default:
	}
	if err := l.s.failure(); err != nil {
		return nil, 0, err
	}
	room, ok := l.drain()
	if !ok {
		return nil, 0, queue.ErrClosed
	}
	room = min(room, max)
	if room <= 0 {
		return nil, 0, nil
	}
	view := view{s: l.s}
	defer view.close()
	if l.needsDisk() {
		snapshot, out, ok := l.snapshot()
		view.snapshot = snapshot
		if !ok {
			return nil, 0, queue.ErrClosed
		}
		if err := l.refill(snapshot.txn, out); err != nil {
			return nil, 0, err
		}
	}
	now := l.s.clock.now()
	tickets := l.pick(room, now.UnixNano())
	if len(tickets) == 0 {
		return nil, l.wait(now), nil
	}
	return l.lease(tickets, &view), time.Microsecond, nil
}

// view is a snapshot that is taken when it is needed: deliveries handed over in
// memory need none.
type view struct {
	s        *Store
	snapshot *snapshot
}

func (v *view) get() *badger.Txn {
	if v.snapshot == nil {
		v.snapshot = v.s.newest()
	}
	return v.snapshot.txn
}

func (v *view) close() {
	if v.snapshot != nil {
		v.snapshot.release()
	}
}

// drain takes over the inbox and returns how many leases may go out. It takes
// nothing and is not ok if the lane was closed: the inbox and the marks may be
// those of the next lane.
func (l *lane) drain() (room int, ok bool) {
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	if l.h.lane != l {
		return 0, false
	}
	l.drainLocked()
	l.headsLocked()
	if l.calls++; l.calls%markEvery == 0 {
		l.markLocked()
	}
	return l.o.MaxInFlight - l.out, true
}

// drainLocked takes over the inbox. The lane must be the open one.
func (l *lane) drainLocked() {
	in := &l.h.inbox
	if in.lost {
		l.resetLocked() // what was given back is on disk too
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
	// The inbox continues where the window ended, or, while the lane is behind,
	// holds what is also on disk from next on.
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

// insert puts a new R key into its rung's window, unless it lies behind the end
// of what was read.
func (l *lane) insert(t ticket) {
	r := l.rungs[t.rung]
	if r == nil {
		r = &rung{}
		l.rungs[t.rung] = r
	}
	at := t.at()
	if r.more && !at.less(r.end) {
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

func compareWaiting(a, b waiting) int {
	switch {
	case a.less(b):
		return -1
	case b.less(a):
		return 1
	}
	return 0
}

// next is the first key behind w.
func next(w waiting) waiting { return waiting{due: w.due, seq: w.seq + 1} }

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

// snapshot returns a snapshot that agrees with the lane: the inbox is empty,
// what comes into it from now on is not in the snapshot, and out is what the lane
// has in hand: leased, or given back and not handed out again. The caller
// releases the snapshot also if ok is false, which means that the lane was
// closed.
func (l *lane) snapshot() (newest *snapshot, out map[uint64]bool, ok bool) {
	l.s.visible.Lock()
	defer l.s.visible.Unlock()
	newest = l.s.newestLocked()
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	if l.h.lane != l {
		return newest, nil, false
	}
	l.drainLocked()
	if len(l.fresh) == 0 && !l.tail {
		l.h.inbox.behind = false // from here on, the inbox has no gap
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

// refill reads the windows that are empty and have more on disk.
func (l *lane) refill(txn *badger.Txn, out map[uint64]bool) error {
	if len(l.fresh) == 0 && !l.tail {
		atEnd, err := l.refillFresh(txn, out)
		if err != nil {
			return err
		}
		l.tail = atEnd
		if !atEnd {
			l.fallBehind()
			l.signal() // there is more to read, whatever is found now
		}
	}
	for n, r := range l.rungs {
		if r.more && len(r.window) == 0 {
			l.refillRung(txn, out, n, r)
		}
	}
	return nil
}

// fallBehind drops the new events that the inbox holds: the lane will read them
// from disk.
func (l *lane) fallBehind() {
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	if l.h.lane != l {
		return
	}
	l.h.inbox.behind = true
	clear(l.h.inbox.fresh)
	l.h.inbox.fresh, l.h.inbox.bytes = l.h.inbox.fresh[:0], 0
}

// refillFresh reads on in B from next; it reports whether it came to the end.
func (l *lane) refillFresh(txn *badger.Txn, out map[uint64]bool) (atEnd bool, err error) {
	var ds deliveries
	budget := l.h.bounds.scan
	atEnd = true
	from := l.next
	err = scan(txn, []byte{prefixDeliveries}, deliveriesKey(from), func(key, rec []byte) (bool, error) {
		if budget--; budget < 0 || len(l.fresh) >= l.h.bounds.window {
			atEnd = false
			return false, nil
		}
		seq := seqOf(key)
		l.next = seq + 1
		var err error
		if ds, err = decodeDeliveries(ds[:0], key, rec); err != nil {
			// Said and stepped over: the event cannot be delivered, the others can.
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

// refillRung reads on in R from the window's end.
func (l *lane) refillRung(txn *badger.Txn, out map[uint64]bool, n uint8, r *rung) {
	r.more = false
	prefix := append(waitingPrefix(l.h.id), n)
	scanKeys(txn, prefix, waitingKey(l.h.id, n, r.end), func(key []byte) bool {
		if len(r.window) >= l.h.bounds.window {
			r.more = true
			return false
		}
		_, at, ok := parseWaitingKey(key)
		if !ok {
			return true
		}
		r.end = next(at)
		if !out[at.seq] {
			r.window = append(r.window, at)
		}
		return true
	})
}

// pick takes up to n tickets that are due: what was given back first, then
// fresh ones and retries in turns.
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
		if r.taken.less(at) {
			r.taken = at
		}
		tickets = append(tickets, ticket{seq: at.seq, rung: due, due: at.due})
		l.turn = false
	}
	return tickets
}

// firstDue is the rung whose head is due first, if any is due.
func (l *lane) firstDue(now int64) (first *rung, n uint8) {
	for i, r := range l.rungs {
		if len(r.window) == 0 || r.window[0].due > now {
			continue
		}
		if first == nil || r.window[0].less(first.window[0]) {
			first, n = r, i
		}
	}
	return first, n
}

// wait is how long until the first retry is due; 0 where none waits.
func (l *lane) wait(now time.Time) time.Duration {
	var first int64
	for _, r := range l.rungs {
		if len(r.window) > 0 && (first == 0 || r.window[0].due < first) {
			first = r.window[0].due
		}
	}
	if first == 0 {
		return 0
	}
	return max(time.Duration(first-now.UnixNano()), time.Microsecond)
}

// lease turns tickets into leases.
func (l *lane) lease(tickets []ticket, v *view) []*queue.Lease {
	leases := make([]*queue.Lease, 0, len(tickets))
	out := make([]leased, 0, len(tickets)) // theirs, one for one
	read := 0
	for i, t := range tickets {
		if read > leaseBytes {
			l.returned = append(l.returned, tickets[i:]...)
			l.signal()
			break
		}
		lease, err := l.open(v, &tickets[i])
		if err != nil {
			// Said and stepped over: it stays where it is and is seen by check.
			_ = l.s.report(fmt.Sprintf("leasing event %d", t.seq), err)
			continue
		}
		if lease != nil {
			leases = append(leases, lease)
			out = append(out, leased{lease: lease, lane: l, ticket: tickets[i]})
			if t.event == nil {
				read += len(lease.Event.Body)
			}
		}
	}
	// What is next is read before its turn: since when it waits is known by it.
	if len(l.fresh) > 0 && l.fresh[0].event == nil {
		if e, err := l.s.getEvent(v.get(), l.fresh[0].seq); err == nil {
			l.fresh[0].event = &e
		}
	}
	return l.register(leases, out)
}

// open reads what a ticket needs. No lease and no error means that the ticket
// is stale.
func (l *lane) open(v *view, t *ticket) (*queue.Lease, error) {
	d := delivery{webhook: l.h.id, state: queue.Pending}
	if t.event == nil {
		e, err := l.s.getEvent(v.get(), t.seq)
		if err != nil {
			return nil, err
		}
		t.event = &e
	}
	if !t.fresh || t.again {
		ds, err := getDeliveries(v.get(), t.seq)
		if err != nil {
			return nil, err
		}
		stored := ds.find(l.h.id)
		if stored == nil || !t.names(*stored) {
			return nil, nil
		}
		d = *stored
	}
	return queue.NewLease(l.s.clock.delivery(t.event, d), *t.event, l), nil
}

// register enters the leases as out; those whose ticket went stale are dropped.
func (l *lane) register(leases []*queue.Lease, out []leased) []*queue.Lease {
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	if l.h.lane != l || l.h.inbox.lost {
		return nil // closed meanwhile, or about to read everything anew
	}
	went := leases[:0]
	for i, lease := range leases {
		seq := out[i].ticket.seq
		if l.h.moving[seq] {
			continue // it is read again once it has moved
		}
		if l.h.leased[seq] != nil {
			l.h.inbox.lost = true // must not be; the store knows better
			continue
		}
		l.h.leased[seq] = &out[i]
		l.out++
		went = append(went, lease)
	}
	l.headsLocked()
	return went
}

// headsLocked publishes since when the lane's heads wait.
func (l *lane) headsLocked() {
	l.h.freshSince, l.h.due = time.Time{}, 0
	if len(l.fresh) > 0 && l.fresh[0].event != nil {
		l.h.freshSince = l.fresh[0].event.Created
	}
	for _, r := range l.rungs {
		if len(r.window) > 0 && (l.h.due == 0 || r.window[0].due < l.h.due) {
			l.h.due = r.window[0].due
		}
	}
}

// markLocked publishes the low-water marks. The inbox is empty: every key that
// was ever told of is in a window, out, or behind a window's end.
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
			due[n] = r.window[0].due
		case r.more:
			due[n] = r.end.due
		default:
			due[n] = r.taken.due
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
	l.h.marks.fresh = fresh
	l.h.marks.due = due
}
