package badgerqueue

import (
	"context"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
)

const (
	// leaseBytes limits the bytes of bodies that one call of Next reads from disk.
	leaseBytes = 4 << 20
	// markEvery is the number of calls after which the low-water marks are published.
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

// Sync implements queue.Lane. It commits an empty operation: the committer keeps the order
// of operations, so all earlier settlements are then on disk.
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

// poll returns the leases that can be made now, or the time until the next delivery is due
// (0: wait until woken).
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

// lazySnapshot takes a snapshot only when it is needed. Events that came through the inbox
// need none.
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

// drain takes over the inbox and returns how many more leases the lane may have. If the
// lane was closed, it takes nothing and ok is false, because the inbox and the marks may
// belong to the next lane.
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
	out := make([]leased, 0, len(tickets)) // out[i] belongs to leases[i]
	read := 0
	for i, t := range tickets {
		if read > leaseBytes {
			l.returned = append(l.returned, tickets[i:]...)
			l.signal()
			break
		}
		lease, err := l.open(v, &tickets[i])
		if err != nil {
			// Report and skip the delivery. Its record stays, and check finds it.
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
	// Read the next fresh event now: headsLocked needs its time of creation.
	if len(l.fresh) > 0 && l.fresh[0].event == nil {
		if e, err := l.s.getEvent(v.get(), l.fresh[0].seq); err == nil {
			l.fresh[0].event = &e
		}
	}
	return l.register(leases, out)
}

// open reads the records of a ticket and makes its lease. It returns no lease and no error
// if the delivery no longer waits where the ticket says.
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

// register records the leases as given out, and returns them without those whose delivery
// is moving.
func (l *lane) register(leases []*queue.Lease, out []leased) []*queue.Lease {
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	if !l.isOpenLocked() || l.h.inbox.lost {
		return nil // the lane was closed, or must read everything again
	}
	went := leases[:0]
	for i, lease := range leases {
		seq := out[i].ticket.seq
		if l.h.moving[seq] {
			continue // the lane reads it again after the move
		}
		if l.h.leased[seq] != nil {
			l.h.inbox.lost = true // never expected: read everything again from the store
			continue
		}
		l.h.leased[seq] = &out[i]
		l.out++
		went = append(went, lease)
	}
	l.headsLocked()
	return went
}
