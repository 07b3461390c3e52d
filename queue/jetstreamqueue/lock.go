package jetstreamqueue

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/userhero/relay/queue"
)

// lock is a named lock that expires if its owner dies. The server removes the lock's
// message after the TTL of the stream of locks. The owner writes the message again five
// times within the TTL, so that it keeps the lock during an election.
type lock struct {
	q     *Queue
	name  string
	state func() holder // returns what the owner publishes with each refresh; may be nil
	seq   uint64        // sequence number of the owner's last message
	// until is when the lock may expire. It is measured by this process's monotonic clock,
	// from the time before the message was sent.
	until atomic.Pointer[time.Time]
}

// holder is the content of a lock's message. All relays hear it: see peers.
type holder struct {
	Node string `json:"node"`
	Held bool   `json:"held,omitempty"` // set in a refresh: the sender had the lock already
	// OldestDue is when the lane's oldest due delivery began to wait, by the servers'
	// clock. It is 0 if no delivery is due.
	OldestDue int64 `json:"oldest_due,omitempty"`
}

// lockMargin shortens the TTL by a tenth for the owner, because timers may be late.
const lockMargin = 10

// refreshes is how often a lock is written within its TTL.
const refreshes = 5

// acquire takes the lock if it is free.
func (q *Queue) acquire(ctx context.Context, name string, state func() holder) (*lock, error) {
	l := &lock{q: q, name: name, state: state}
	if err := l.write(ctx); err != nil {
		return nil, err
	}
	return l, nil
}

// write takes or refreshes the lock. It returns errSequence if another owner has it.
func (l *lock) write(ctx context.Context) error {
	var says holder
	if l.state != nil && l.seq > 0 {
		says = l.state()
	}
	says.Node, says.Held = l.q.node, l.seq > 0
	// publish may repeat the message, and a repeat may be stored late. But it is never
	// stored after a later refresh, because it must follow the same message. So count from
	// before the first try.
	began := time.Now()
	seq, err := l.q.publishJSON(ctx, l.q.names.lock(l.name), says, after(l.seq))
	if err != nil {
		return err
	}
	l.seq = seq
	until := began.Add(l.q.o.LockTTL - l.q.o.LockTTL/lockMargin)
	l.until.Store(&until)
	return nil
}

// lost reports whether another owner may have the lock. The monotonic clock stands still
// while the machine sleeps, so lost compares the time of day too.
func (l *lock) lost() bool {
	until, now := l.until.Load(), time.Now()
	return until == nil || !now.Before(*until) || !now.Round(0).Before(until.Round(0))
}

// keep refreshes the lock until the context ends or the lock is lost.
func (l *lock) keep(ctx context.Context) {
	every := time.NewTicker(l.q.o.LockTTL / refreshes)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
		until := *l.until.Load()
		refresh, cancel := context.WithDeadline(ctx, until)
		err := l.write(refresh)
		cancel()
		if errors.Is(err, errSequence) || errors.Is(err, queue.ErrClosed) {
			l.until.Store(nil)
			return
		}
		if l.lost() {
			return
		}
	}
}

// release releases the lock at once. If that fails, the lock expires. It must not be called
// for a lost lock, whose message may belong to another owner. If there is a successor,
// other relays give it time to take the lock.
func (l *lock) release(ctx context.Context, successor string) {
	l.until.Store(nil)
	if err := l.q.remove(ctx, l.q.names.locks(), l.seq); err == nil {
		_ = l.q.nc.Publish(l.q.names.released(l.name), []byte(successor)) // waiting relays then try sooner
	}
}
