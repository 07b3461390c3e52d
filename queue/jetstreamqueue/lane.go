package jetstreamqueue

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/userhero/relay/queue"
)

const (
	defaultInFlight = 8
	// windowEvents and windowBytes limit the fresh events that a lane holds ready.
	windowEvents = 512
	windowBytes  = 1 << 20
	// lookForLock is how often a relay checks whether a lane has no owner.
	lookForLock = time.Second
)

// lane implements queue.Lane.
//
//	         acquire             load
//	waiting ─────────► loading ───────► owned ──► ended (closed, webhook deleted)
//	   ▲                                  │
//	   └──────────────────────────────────┘ the lock is lost
//
// While the lane is not owned, Next waits.
type lane struct {
	q       *Queue
	webhook queue.WebhookID
	most    int
	life    context.Context //nolint:containedctx // ends when the lane is closed
	end     context.CancelFunc
	done    chan struct{} // closed when all settlements are stored and the lock is released
	wake    chan struct{} // of capacity 1: a delivery may be due, or a place free
	work    chan struct{} // of capacity 1: there are settlements to store
	// successor, of capacity 1, receives a relay that waits for the lane and ranks higher.
	successor chan string

	mu      sync.Mutex // guards everything below
	owned   bool
	leaving bool // the lane goes to its successor, so Next returns no more deliveries
	lock    *lock
	token   string // names this ownership in every message that the owner writes
	chain   uint64 // the last cursor's sequence number

	// Fresh deliveries. head is the last one that was taken. passed holds those up to head
	// that are neither settled nor have a record. gaps holds the passed ones of earlier
	// owners, which go out first. window holds the next ones, read from the stream or
	// offered when they were accepted.
	head, next       uint64 // next is the first event that the window does not cover
	taken, delivered int64
	passed           map[uint64]struct{}
	gaps             []uint64
	window           []*storedEvent
	bytes            int
	behind           bool // there may be events from next on that were not offered

	records map[uint64]record // records of deliveries that wait or are not passed yet
	// ended holds the sequence number of the last record of deliveries that have ended. An
	// entry stays until the ledger has read that record, because the ledger may still pass
	// older records to the lane.
	ended map[uint64]uint64
	due   dueHeap

	// frozen holds events that are being erased. They are not leased. erasing is the last
	// erasing message that was read, and released the last one that is in the cursor.
	frozen            map[uint64]struct{}
	erasing, released uint64

	leased     map[uint64]*lease
	committing map[uint64]*settled // settled and not yet stored; nil: being requeued
	returned   []*lease            // deferred and due again at once
	settled    []*settled
	storing    time.Time // when the commit that is running began; zero: no commit is running
	retryTurn  bool
	syncing    []chan error // calls of Sync that wait for the next commit
}

// lease is a leased delivery.
type lease struct {
	*queue.Lease
	seq   uint64
	event *storedEvent
	fresh bool // it has no record
	// requeued is set if its last record is by Requeue, which may have been called while the
	// event was redacted.
	requeued bool
}

// settled is a lease with its settlement.
type settled struct {
	*lease
	queue.Settlement
	record uint64 // the delivery's last record when it was attempted; 0: it had none
	at     time.Time
}

// settleRedacted settles a delivery that ends without an attempt: its event was redacted.
const settleRedacted queue.SettleKind = 0

// isAttempted reports whether the delivery was attempted.
func (s *settled) isAttempted() bool {
	return s.Kind != queue.SettleDefer && s.Kind != settleRedacted
}

// dueHeap orders deliveries by due time.
type dueHeap []dueAt

type dueAt struct {
	due    int64
	event  uint64
	record uint64
}

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due < h[j].due }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *dueHeap) Push(x any)        { *h = append(*h, x.(dueAt)) } //nolint:forcetypeassert // heap.Push is called here only
func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}

// Lane implements queue.Queue. It does not wait until this relay owns the lane; Next does.
func (q *Queue) Lane(w queue.WebhookID, o queue.LaneOptions) (queue.Lane, error) {
	if err := q.isClosed(); err != nil {
		return nil, err
	}
	if _, ok := q.registry.get(w); !ok {
		return nil, fmt.Errorf("webhook %d: %w", w, queue.ErrNotFound)
	}
	if o.MaxInFlight <= 0 {
		o.MaxInFlight = defaultInFlight
	}
	l := &lane{
		q: q, webhook: w, most: o.MaxInFlight,
		done: make(chan struct{}), wake: make(chan struct{}, 1), work: make(chan struct{}, 1),
		successor: make(chan string, 1),
	}
	l.life, l.end = context.WithCancel(q.closed)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.lanes[w] != nil {
		l.end()
		return nil, fmt.Errorf("webhook %d has an open lane: %w", w, queue.ErrConflict)
	}
	q.lanes[w] = l
	q.running.Go(l.run)
	return l, nil
}

// laneOf returns the lane that this relay has open for a webhook, or nil.
func (q *Queue) laneOf(w queue.WebhookID) *lane {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lanes[w]
}

// tellLane passes a record to the webhook's lane, unless the lane's owner wrote it.
func (q *Queue) tellLane(w queue.WebhookID, seq uint64, r record, first bool) {
	if first {
		return // no lane is open yet
	}
	if l := q.laneOf(w); l != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		if r.seq >= l.ended[seq] {
			delete(l.ended, seq)
		}
		if l.records != nil && r.By != l.token {
			l.adopt(seq, r)
		}
	}
}

// Close implements queue.Lane.
func (l *lane) Close() error {
	l.stop()
	<-l.done
	return nil
}

// stop ends the lane: Next returns, and leases are lost. done is closed after the last
// settlements are stored.
func (l *lane) stop() {
	l.q.mu.Lock()
	if l.q.lanes[l.webhook] == l {
		delete(l.q.lanes, l.webhook)
	}
	l.q.mu.Unlock()
	l.mu.Lock()
	clear(l.leased)
	l.returned = nil
	l.mu.Unlock()
	l.end()
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run owns the lane whenever it can, until it is closed.
func (l *lane) run() {
	defer close(l.done)
	for l.life.Err() == nil {
		lock := l.await()
		if lock == nil {
			return
		}
		successor := ""
		err := l.take(lock)
		if err == nil {
			successor = l.serve(lock)
		} else if l.life.Err() == nil {
			l.q.o.Logger.Warn("a webhook's lane could not be taken; it is tried again", "webhook", l.webhook, "error", err)
		}
		l.mu.Lock()
		l.letGo()
		l.mu.Unlock()
		if !lock.lost() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(l.life), tryFor)
			if successor != "" {
				l.q.peers.leaveTo(lock.name, successor)
			}
			lock.release(ctx, successor)
			cancel()
		}
		if err != nil {
			l.pause(lookForLock, nil)
		}
	}
}

// await waits until the lane's lock is free and takes it. It returns nil if the lane is
// closed.
func (l *lane) await() *lock {
	name := laneLock(l.webhook)
	freed := l.q.peers.waitFor(l.webhook)
	defer l.q.peers.waitNoMore(l.webhook)
	for l.life.Err() == nil {
		if l.q.peers.mayBeFree(name) {
			lock, err := l.q.acquire(l.life, name, l.says)
			if err == nil {
				return lock
			}
			if !errors.Is(err, errSequence) && l.life.Err() == nil {
				l.q.o.Logger.Warn("the lock of a webhook's lane cannot be read", "webhook", l.webhook, "error", err)
			}
		}
		l.pause(lookForLock, freed)
	}
	return nil
}

func laneLock(w queue.WebhookID) string { return "lane" + number(w) }

// says returns what the owner publishes about the lane to the other relays.
func (l *lane) says() holder {
	return holder{OldestDue: l.q.serverNanos(l.oldestDue(time.Now()))}
}

// Owned implements queue.Lane.
func (l *lane) Owned() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.owned && !l.lock.lost()
}

// Sync implements queue.Lane.
func (l *lane) Sync(ctx context.Context) error {
	l.mu.Lock()
	if !l.owned {
		l.mu.Unlock()
		return queue.ErrLeaseLost
	}
	stored := make(chan error, 1)
	l.syncing = append(l.syncing, stored)
	l.mu.Unlock()
	signal(l.work)
	select {
	case err := <-stored:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pause waits for a time. It returns earlier if sooner receives a value or the lane is
// closed.
func (l *lane) pause(d time.Duration, sooner <-chan struct{}) {
	select {
	case <-time.After(d):
	case <-sooner:
	case <-l.life.Done():
	}
}

// take reads the stored state of the lane. First it writes a cursor. After that the
// previous owner can store no cursor any more.
func (l *lane) take(lock *lock) error {
	ctx, cancel := context.WithDeadline(l.life, *lock.until.Load())
	defer cancel()
	select {
	case l.q.taking <- struct{}{}: // too many lanes at once would slow each other down
		defer func() { <-l.q.taking }()
	case <-ctx.Done():
		return ctx.Err()
	}
	c, chain, err := l.q.readCursor(ctx, l.webhook)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.lock, l.token, l.chain = lock, newToken(), chain
	l.head, l.next, l.taken, l.delivered = c.Head, c.Head+1, c.Taken, c.Delivered
	l.passed, l.gaps, l.window, l.bytes, l.behind = make(map[uint64]struct{}), nil, nil, 0, true
	for _, seq := range c.Gaps {
		l.passed[seq] = struct{}{}
	}
	l.records, l.ended, l.due = make(map[uint64]record), make(map[uint64]uint64), nil
	l.leased, l.committing = make(map[uint64]*lease), make(map[uint64]*settled)
	l.returned, l.settled, l.storing = nil, nil, time.Time{}
	l.frozen, l.erasing, l.released = nil, 0, c.Erasing
	l.freeze(l.q.ledger.isErasing())
	l.mu.Unlock()
	if err := l.storeCursor(ctx, nil); err != nil {
		return err
	}
	// What was announced to be erased before this cursor must not be leased.
	if read, err := l.q.ledger.wait(ctx, 0, l.chain, l.q.o.Patience); err != nil || !read {
		return errors.Join(err, errors.New("this relay has not read what the lane's former owner has seen"))
	}
	if _, err := l.q.newest(ctx, l.q.names.state(), []string{l.q.names.records(l.webhook) + ">"}, func() {}, func(m *message) {
		_, seq, ok := l.q.names.delivery(m.subject)
		var head recordHead
		if err := m.head(headerRecord, &head); err != nil || !ok {
			l.q.o.Logger.Error("a record of a delivery cannot be read", "subject", m.subject, "error", err)
			return
		}
		l.mu.Lock()
		l.adopt(seq, record{head, m.seq})
		l.mu.Unlock()
	}); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, seq := range c.Gaps {
		if _, ok := l.passed[seq]; ok {
			l.gaps = append(l.gaps, seq)
		}
	}
	l.owned = true
	signal(l.wake)
	return nil
}

// readCursor reads a webhook's last cursor and its sequence number from the leader.
func (q *Queue) readCursor(ctx context.Context, w queue.WebhookID) (c cursor, seq uint64, err error) {
	m, err := q.last(ctx, q.names.state(), q.names.cursor(w))
	if errors.Is(err, queue.ErrNotFound) {
		hook, _ := q.registry.get(w)
		return cursor{Head: hook.since}, 0, nil
	}
	if err != nil {
		return c, 0, err
	}
	return c, m.seq, m.head(headerCursor, &c)
}

// freeze keeps the events of a step of an erasure from being leased. The caller holds l.mu.
func (l *lane) freeze(step *erasingStep) {
	if step == nil || l.records == nil {
		return
	}
	l.frozen, l.erasing = make(map[uint64]struct{}, len(step.Events)), step.seq
	for _, seq := range step.Events {
		l.frozen[seq] = struct{}{}
	}
	l.returned = slices.DeleteFunc(l.returned, func(back *lease) bool { return l.isFrozen(back.seq) })
	signal(l.work)
}

func (l *lane) isFrozen(seq uint64) bool {
	_, ok := l.frozen[seq]
	return ok
}

// releasing returns the last erasing message of which no event is being attempted. The
// caller holds l.mu.
func (l *lane) releasing() uint64 {
	for seq := range l.frozen {
		_, out := l.leased[seq]
		if _, busy := l.committing[seq]; out || busy {
			return l.released
		}
	}
	return max(l.erasing, l.released)
}

// release makes the next commit write that the frozen events are released, if they are. The
// caller holds l.mu.
func (l *lane) release() {
	if l.erasing > l.released && l.releasing() == l.erasing {
		signal(l.work)
	}
}

// drop forgets events that were erased. The caller holds l.mu.
func (l *lane) drop(events []uint64) {
	for _, seq := range events {
		delete(l.frozen, seq)
		delete(l.records, seq)
		if _, ok := l.passed[seq]; ok {
			delete(l.passed, seq)
			l.taken--
		}
	}
	l.window = slices.DeleteFunc(l.window, func(e *storedEvent) bool {
		_, gone := slices.BinarySearch(events, e.ID.Seq())
		if gone {
			l.bytes -= len(e.Body)
		}
		return gone
	})
	signal(l.work)
	signal(l.wake)
}

// dropErased makes the lanes forget events that were erased.
func (q *Queue) dropErased(events []uint64) {
	for _, l := range q.openLanes() {
		l.mu.Lock()
		if l.records != nil {
			l.drop(events)
		}
		l.mu.Unlock()
	}
}

// openLanes returns the lanes that this relay has open.
func (q *Queue) openLanes() []*lane {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Collect(maps.Values(q.lanes))
}

// adopt takes over a record that this lane did not write. The lease of its delivery is
// lost. The caller holds l.mu.
func (l *lane) adopt(seq uint64, r record) {
	if before, ok := l.records[seq]; ok && before.seq >= r.seq || l.ended[seq] > r.seq {
		return
	}
	delete(l.leased, seq)
	l.returned = slices.DeleteFunc(l.returned, func(back *lease) bool { return back.seq == seq })
	l.recorded(seq, r)
	signal(l.wake)
}

// recorded enters a record. The caller holds l.mu.
func (l *lane) recorded(seq uint64, r record) {
	delete(l.passed, seq)
	if !r.waits() && seq <= l.head {
		l.endRecord(seq, r)
		return
	}
	l.records[seq] = r
	if r.waits() {
		heap.Push(&l.due, dueAt{r.Due, seq, r.seq})
	}
}

// endRecord forgets the record of a delivery that has ended and is passed. The caller holds
// l.mu.
func (l *lane) endRecord(seq uint64, r record) {
	delete(l.records, seq)
	if r.seq > l.q.ledger.stateRead() {
		l.ended[seq] = r.seq
	}
}

// letGo forgets the state of the lane. Leases are lost. The next owner learns what could
// not be stored. The caller holds l.mu.
func (l *lane) letGo() {
	l.owned, l.leaving = false, false
	for _, s := range l.committing {
		if s != nil && s.isAttempted() {
			l.q.outcomes.remember(l.outcomeOf(s))
		}
	}
	for _, stored := range l.syncing {
		stored <- queue.ErrLeaseLost
	}
	l.syncing = nil
	clear(l.leased)
	clear(l.committing)
	l.returned, l.settled, l.window, l.gaps, l.due = nil, nil, nil, nil, nil
	l.records, l.ended = nil, nil
}

// offer gives the lane an event that has just been accepted.
func (l *lane) offer(e *storedEvent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	seq := e.ID.Seq()
	if l.records == nil || l.behind || seq < l.next {
		return
	}
	if len(l.window) >= windowEvents || l.bytes+len(e.Body) > windowBytes && len(l.window) > 0 {
		l.behind = true
		return
	}
	l.append(e)
	signal(l.wake)
}

func (l *lane) append(e *storedEvent) {
	l.window = append(l.window, e)
	l.bytes += len(e.Body)
	l.next = e.ID.Seq() + 1
}

// load fills the window from the stream.
func (l *lane) load(ctx context.Context) error {
	l.mu.Lock()
	from := l.next
	l.mu.Unlock()
	position := l.q.ledger.position()
	all, err := l.q.rangeFrom(ctx, l.q.names.events(), ">", from, rangeMessages)
	if err != nil {
		return err
	}
	end := position + 1 // if the stream has no event between from and position
	if len(all) > 0 {
		end = all[len(all)-1].seq + 1
	} else if from <= position {
		// A replica that lags behind also returns nothing, so ask the leader.
		switch _, err := l.q.get(ctx, l.q.names.events(), getRequest{Seq: from, Next: ">"}); {
		case err == nil:
			end = from
			l.pause(10*time.Millisecond, nil)
		case !errors.Is(err, queue.ErrNotFound):
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next != from || !l.behind {
		return nil
	}
	for _, m := range all {
		if e, err := l.q.event(m); err == nil && !e.isHold() && e.isFor(l.webhook) {
			l.append(e)
		}
	}
	l.next = max(end, from)
	l.behind = l.next <= l.q.ledger.position()
	return nil
}

// Next implements queue.Lane.
func (l *lane) Next(ctx context.Context, most int) ([]*queue.Lease, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if l.life.Err() != nil {
			return nil, queue.ErrClosed
		}
		picked, due, load := l.pick(max(most, 1))
		if len(picked) > 0 {
			leases, err := l.fetch(ctx, picked)
			if err != nil || len(leases) > 0 {
				return leases, err
			}
			continue
		}
		if load {
			if err := l.load(ctx); err != nil {
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				l.q.o.Logger.Warn("a webhook's events cannot be read; it is tried again", "webhook", l.webhook, "error", err)
				l.pause(lookForLock, nil)
			}
			continue
		}
		if err := l.sleep(ctx, due); err != nil {
			return nil, err
		}
	}
}

// sleep waits until something changes, or until due if due is not zero.
func (l *lane) sleep(ctx context.Context, due time.Time) error {
	var alarm <-chan time.Time
	if !due.IsZero() {
		timer := time.NewTimer(time.Until(due))
		defer timer.Stop()
		alarm = timer.C
	}
	select {
	case <-l.wake:
	case <-alarm:
	case <-l.life.Done():
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// pick takes up to most deliveries that are due. If none is due, due is when the first one
// will be, and load is set if the window must be filled first.
func (l *lane) pick(most int) (picked []*lease, due time.Time, load bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.owned || l.leaving || l.lock.lost() {
		return nil, time.Time{}, false
	}
	now := time.Now()
	if l.isStalledLocked(now) {
		return nil, now.Add(mayStall), false
	}
	for len(picked) < most && len(l.leased) < l.most {
		one, again := l.pickOne(now)
		if one == nil {
			due, load = again, l.behind && len(l.window) == 0 && len(l.gaps) == 0
			break
		}
		record := l.records[one.seq]
		one.requeued = record.By == byRequeue
		if o, ok := l.q.outcomes.take(l.webhook, one.seq, record.seq); ok {
			l.enterSettled(l.q.settledBy(o, one))
			continue
		}
		l.leased[one.seq] = one
		picked = append(picked, one)
	}
	return picked, due, load
}

const (
	// mostUnstored and mayStall limit how many deliveries are sent again if the lane is
	// lost and no relay knows their outcomes. If mostUnstored settlements are not stored yet, or a commit takes longer than
	// mayStall, Next returns no more deliveries.
	mostUnstored = 512
	mayStall     = 300 * time.Millisecond
)

// isStalledLocked reports whether settlements must be stored before Next may return more
// deliveries.
func (l *lane) isStalledLocked(now time.Time) bool {
	return len(l.committing) >= mostUnstored || !l.storing.IsZero() && now.Sub(l.storing) > mayStall
}

// pickOne chooses the next delivery: first the returned ones, then fresh ones and retries
// in turn. If there is none, due is when the first retry is due.
func (l *lane) pickOne(now time.Time) (one *lease, due time.Time) {
	if len(l.returned) > 0 {
		one = l.returned[0]
		l.returned = l.returned[1:]
		return one, due
	}
	retry, due := l.dueRetry(now)
	if retry == 0 || !l.retryTurn {
		if one = l.nextFresh(); one != nil {
			l.retryTurn = true
			return one, due
		}
	}
	if retry == 0 {
		return nil, due
	}
	l.retryTurn = false
	heap.Pop(&l.due)
	return &lease{seq: retry}, due
}

// dueRetry returns the first delivery with a record that is due. If there is none, it
// returns 0 and when the first one will be due.
func (l *lane) dueRetry(now time.Time) (seq uint64, due time.Time) {
	for len(l.due) > 0 {
		top := l.due[0]
		if r, ok := l.records[top.event]; !ok || r.seq != top.record {
			heap.Pop(&l.due)
			continue
		}
		_, out := l.leased[top.event]
		if _, busy := l.committing[top.event]; out || busy || l.isFrozen(top.event) || l.isReturned(top.event) {
			heap.Pop(&l.due) // it is pushed again later
			continue
		}
		if at := l.q.localTime(top.due); at.After(now) {
			return 0, at
		}
		return top.event, due
	}
	return 0, due
}

// nextFresh returns the next delivery in order of acceptance, or nil if none is ready.
func (l *lane) nextFresh() *lease {
	for len(l.gaps) > 0 {
		seq := l.gaps[0]
		l.gaps = l.gaps[1:]
		_, busy := l.committing[seq]
		if _, waits := l.passed[seq]; waits && !busy && !l.isFrozen(seq) {
			return &lease{seq: seq, fresh: true}
		}
	}
	for len(l.window) > 0 {
		e := l.window[0]
		l.window[0] = nil
		l.window = l.window[1:]
		l.bytes -= len(e.Body)
		seq := e.ID.Seq()
		l.head = seq
		l.taken++
		if r, ok := l.records[seq]; ok {
			if !r.waits() {
				l.endRecord(seq, r)
			}
			continue
		}
		l.passed[seq] = struct{}{}
		if _, busy := l.committing[seq]; busy {
			continue // it is being requeued: either a record arrives, or unhold returns it
		}
		if l.isFrozen(seq) || l.q.erased.has(e.Feedback) {
			continue // an erasure drops it
		}
		return &lease{seq: seq, event: e, fresh: true}
	}
	return nil
}

// fetch reads the documents of the picked deliveries and makes their leases. It drops a
// delivery whose event was removed.
func (l *lane) fetch(ctx context.Context, picked []*lease) ([]*queue.Lease, error) {
	var fetching sync.WaitGroup
	errs := make([]error, len(picked))
	for i, one := range picked {
		if one.event == nil {
			fetching.Go(func() {
				if one.requeued {
					if one.event, errs[i] = l.q.isRedacted(ctx, one.seq); one.event != nil || errs[i] != nil {
						return
					}
				}
				one.event, errs[i] = l.q.eventAt(ctx, one.seq)
			})
		}
	}
	fetching.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	var leases []*queue.Lease
	var failed error
	for i, one := range picked {
		if l.leased[one.seq] != one {
			continue // the lease was lost in the meantime
		}
		switch {
		case errors.Is(errs[i], queue.ErrNotFound):
			l.gone(one)
			continue
		case errs[i] == nil && l.q.erased.has(one.event.Feedback):
			delete(l.leased, one.seq) // an erasure drops it
			l.release()
			continue
		case errs[i] != nil:
			delete(l.leased, one.seq)
			l.returned = append(l.returned, one)
			failed = errs[i]
			continue
		case one.event.Redacted: // it was requeued while it was redacted
			delete(l.leased, one.seq)
			l.enterSettled(&settled{one, queue.Settlement{Kind: settleRedacted}, l.records[one.seq].seq, time.Now()})
			continue
		}
		d := queue.Delivery{
			ID:   queue.DeliveryID{Event: one.event.ID, Webhook: l.webhook},
			Type: one.event.Type, Feedback: one.event.Feedback, Created: one.event.Created, State: queue.Pending,
		}
		if r, ok := l.records[one.seq]; ok {
			l.q.fill(&d, r)
		}
		one.Lease = queue.NewLease(d, one.event.Event, l)
		leases = append(leases, one.Lease)
	}
	if len(leases) == 0 && failed != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if failed != nil {
		l.q.o.Logger.Warn("an event cannot be read; it is tried again", "webhook", l.webhook, "error", failed)
	}
	return leases, nil
}

// gone drops a delivery whose event was removed. The caller holds l.mu.
func (l *lane) gone(one *lease) {
	delete(l.leased, one.seq)
	delete(l.records, one.seq)
	if _, ok := l.passed[one.seq]; ok {
		delete(l.passed, one.seq)
		l.taken--
		signal(l.work)
	}
}

// Lost implements queue.Settler.
func (l *lane) Lost(given *queue.Lease) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost(given)
}

// lost reports whether a lease can no longer be settled. The caller holds l.mu.
func (l *lane) lost(given *queue.Lease) bool {
	one := l.leased[given.Delivery.ID.Event.Seq()]
	return one == nil || one.Lease != given || !l.owned || l.lock.lost()
}

// Settle implements queue.Settler for the lane's leases.
func (l *lane) Settle(given *queue.Lease, s queue.Settlement) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost(given) {
		return queue.ErrLeaseLost
	}
	one := l.leased[given.Delivery.ID.Event.Seq()]
	delete(l.leased, one.seq)
	defer signal(l.wake)
	defer l.release()
	if l.isFrozen(one.seq) && s.Kind == queue.SettleDefer {
		return nil // an erasure drops it
	}
	if s.Kind == queue.SettleDefer && !s.At.After(time.Now()) {
		l.returned = append(l.returned, &lease{seq: one.seq, event: one.event, fresh: one.fresh})
		if l.leaving {
			signal(l.work)
		}
		return nil
	}
	done := &settled{one, s, l.records[one.seq].seq, time.Now()}
	l.enterSettled(done)
	if done.isAttempted() {
		l.q.outcomes.say(l.outcomeOf(done))
	}
	return nil
}

// enterSettled enters a settlement that the next commit stores. The caller holds l.mu.
func (l *lane) enterSettled(s *settled) {
	l.committing[s.seq] = s
	l.settled = append(l.settled, s)
	signal(l.work)
}

// oldestDue returns when the oldest delivery that is due and not leased began to wait. It
// returns zero if there is none.
func (l *lane) oldestDue(now time.Time) (oldest time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	earlier := func(t time.Time) {
		if oldest.IsZero() || t.Before(oldest) {
			oldest = t
		}
	}
	for _, e := range l.window {
		if _, ok := l.records[e.ID.Seq()]; !ok {
			earlier(e.Created)
			break
		}
	}
	if l.records == nil {
		return oldest // this relay does not own the lane
	}
	for _, back := range l.returned {
		if back.event != nil {
			earlier(back.event.Created)
		}
	}
	if seq, _ := l.dueRetry(now); seq != 0 {
		if r := l.records[seq]; r.Due != 0 {
			earlier(l.q.localTime(r.Due))
		}
	}
	return oldest
}

// hold prevents a delivery from being leased while it is requeued.
func (l *lane) hold(seq uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.records == nil {
		return nil // this relay does not own the lane
	}
	_, out := l.leased[seq]
	if _, busy := l.committing[seq]; out || busy {
		return fmt.Errorf("the delivery is being attempted: %w", queue.ErrConflict)
	}
	l.committing[seq] = nil
	return nil
}

// unhold ends hold and takes over the record that was written for the delivery. A zero
// record means that none was written.
func (l *lane) unhold(seq uint64, r record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.committing, seq)
	switch {
	case l.records == nil:
	case r.seq > 0:
		if l.records[seq].seq == r.seq { // the ledger passed it already, while the delivery was held
			heap.Push(&l.due, dueAt{r.Due, seq, r.seq})
		} else {
			l.adopt(seq, r)
		}
	default:
		if _, ok := l.passed[seq]; ok && !l.isReturned(seq) {
			l.gaps = append(l.gaps, seq)
		}
		if have, ok := l.records[seq]; ok && have.waits() && !l.isReturned(seq) {
			heap.Push(&l.due, dueAt{have.Due, seq, have.seq})
		}
	}
	signal(l.wake)
}

func (l *lane) isReturned(seq uint64) bool {
	return slices.ContainsFunc(l.returned, func(back *lease) bool { return back.seq == seq })
}
