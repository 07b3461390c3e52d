package jetstreamqueue

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/userhero/relay/queue"
)

// lock is a named lock that expires with its owner. The server removes its message
// after the TTL of the stream of locks; its owner writes it anew at a fifth of that, so
// that an election does not cost it the lock.
type lock struct {
	q     *Queue
	name  string
	state func() holder // what the owner says with each refresh; may be nil
	seq   uint64        // of the owner's last message
	// until is when the lock may expire: on this process's monotonic clock, counted
	// from before the message was sent.
	until atomic.Pointer[time.Time]
}

// holder is the content of a lock's message. All relays hear it: see peers.
type holder struct {
	Node string `json:"node"`
	Held bool   `json:"held,omitempty"` // a refresh, so that the sender had the lock before
	// OldestDue is since when the oldest due delivery of the lane has waited, by the
	// servers' clock; 0 if nothing is due.
	OldestDue int64 `json:"oldest_due,omitempty"`
}

// lockMargin is the share of the TTL that is given up against slow timers.
const lockMargin = 10

// refreshes is how often a lock is written within its TTL.
const refreshes = 5

// acquire takes the lock if nobody has it.
func (q *Queue) acquire(ctx context.Context, name string, state func() holder) (*lock, error) {
	l := &lock{q: q, name: name, state: state}
	if err := l.write(ctx); err != nil {
		return nil, err
	}
	return l, nil
}

// write takes or refreshes the lock: errSequence if somebody else has it.
func (l *lock) write(ctx context.Context) error {
	m := nats.NewMsg(l.q.names.lock(l.name))
	var says holder
	if l.state != nil && l.seq > 0 {
		says = l.state()
	}
	says.Node, says.Held = l.q.node, l.seq > 0
	data, err := json.Marshal(says)
	if err != nil {
		return err
	}
	m.Data = data
	// A repeat could be stored late, but never after a later one: it expects to follow
	// the same message. That it was sent before counts.
	began := time.Now()
	seq, err := l.q.publish(ctx, m, after(l.seq))
	if err != nil {
		return err
	}
	l.seq = seq
	until := began.Add(l.q.o.LockTTL - l.q.o.LockTTL/lockMargin)
	l.until.Store(&until)
	return nil
}

// lost reports whether somebody else may have the lock. The monotonic clock stands
// still while the machine sleeps, so the time of day counts too.
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

// release lets go of the lock at once; what fails expires. A lock that is lost is left
// alone: the message would be somebody else's. If there is a successor, other relays
// give it time to take the lock.
func (l *lock) release(ctx context.Context, successor string) {
	l.until.Store(nil)
	if err := l.q.remove(ctx, l.q.names.locks(), l.seq); err == nil {
		_ = l.q.nc.Publish(l.q.names.released(l.name), []byte(successor)) // those who wait look sooner
	}
}
