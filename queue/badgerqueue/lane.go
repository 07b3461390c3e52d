package badgerqueue

import (
	"context"
	"fmt"
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
		laneSignals: laneSignals{wake: make(chan struct{}, 1), closed: make(chan struct{})},
		rungs:       make(map[uint8]*rungWindow),
		timer:       time.NewTimer(time.Hour),
	}
	l.timer.Stop()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lane != nil {
		return nil, fmt.Errorf("webhook %d has an open lane: %w", w, queue.ErrConflict)
	}
	h.lane = &l.laneSignals
	l.resetLocked()
	return l, nil
}

// Close implements queue.Lane.
func (l *lane) Close() error {
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	if l.isOpenLocked() {
		l.h.closeLaneLocked()
	}
	return nil
}

// Owned implements queue.Lane.
func (l *lane) Owned() bool {
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	return l.isOpenLocked()
}

// Sync implements queue.Lane. Operations are committed in the order in which they come.
func (l *lane) Sync(ctx context.Context) error {
	return l.s.commit(ctx, 0, 0, func(*batch) error { return nil })
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
	view := lazySnapshot{s: l.s}
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
	now := l.s.clock.Now()
	tickets := l.pick(room, now.UnixNano())
	if len(tickets) == 0 {
		return nil, l.wait(now), nil
	}
	return l.lease(tickets, &view), time.Microsecond, nil
}

// lazySnapshot is a snapshot that is taken when it is needed: deliveries handed over in
// memory need none.
type lazySnapshot struct {
	s        *Store
	snapshot *snapshot
}

func (v *lazySnapshot) get() *badger.Txn {
	if v.snapshot == nil {
		v.snapshot = v.s.newest()
	}
	return v.snapshot.txn
}

func (v *lazySnapshot) close() {
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
	if !l.isOpenLocked() {
		return 0, false
	}
	l.drainLocked()
	l.headsLocked()
	if l.calls++; l.calls%markEvery == 0 {
		l.markLocked()
	}
	return l.o.MaxInFlight - l.out, true
}

// lease turns tickets into leases.
func (l *lane) lease(tickets []ticket, v *lazySnapshot) []*queue.Lease {
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
			out = append(out, leased{lease: lease, ticket: tickets[i]})
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
func (l *lane) open(v *lazySnapshot, t *ticket) (*queue.Lease, error) {
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
	return queue.NewLease(shownDelivery(l.s.clock, t.event, d), *t.event, l), nil
}

// register enters the leases as out; those whose ticket went stale are dropped.
func (l *lane) register(leases []*queue.Lease, out []leased) []*queue.Lease {
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	if !l.isOpenLocked() || l.h.inbox.lost {
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
