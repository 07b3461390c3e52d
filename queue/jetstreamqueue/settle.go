package jetstreamqueue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/userhero/relay/queue"
)

const (
	// cursorEntries and cursorBytes limit the log that one cursor carries.
	cursorEntries = 256
	cursorBytes   = 256 << 10
	// recordsAtOnce is how many records are stored at the same time.
	recordsAtOnce = 64
)

// serve stores settlements until the lock is lost or the lane is closed. When the lane is
// closed, it stores the remaining ones. If it returns a successor, the caller must release
// the lane for that relay; then everything is stored, and nothing is leased.
func (l *lane) serve(lock *lock) (successor string) {
	keeping, stopKeeping := context.WithCancel(context.WithoutCancel(l.life))
	// When the lock is lost, running calls are cancelled, so that they do not disturb the
	// next owner.
	working, stopWorking := context.WithCancel(keeping)
	defer stopWorking()
	lost := make(chan struct{})
	go func() {
		defer close(lost)
		defer stopWorking()
		lock.keep(keeping)
	}()
	defer func() {
		stopKeeping()
		<-lost
	}()
	var deaf, giveUp <-chan time.Time // giveUp ends an attempt to leave the lane; deaf ends the pause after it
	calls := l.successor
	for {
		select {
		case <-l.work:
			if err := l.commit(working, lock); err != nil {
				l.q.o.Logger.Warn("a webhook's lane is lost", "webhook", l.webhook, "error", err)
				return ""
			}
			if successor != "" && l.isIdle() {
				return successor
			}
		case successor = <-calls:
			l.leave(true)
			calls, giveUp = nil, time.After(leaveWithin)
			signal(l.work)
		case <-giveUp: // attempts take too long: stay, and let Next return deliveries again
			l.leave(false)
			successor, giveUp, deaf = "", nil, time.After(leaveAgain)
		case <-deaf:
			calls, deaf = l.successor, nil
		case <-lost:
			l.q.o.Logger.Warn("a webhook's lane is lost: its lock could not be refreshed in time", "webhook", l.webhook)
			return ""
		case <-l.life.Done():
			ctx, cancel := context.WithTimeout(working, l.q.o.Patience)
			defer cancel()
			if err := l.commit(ctx, lock); err != nil {
				l.q.o.Logger.Warn("what was settled last may be delivered again", "webhook", l.webhook, "error", err)
			}
			return ""
		}
	}
}

const (
	// leaveWithin is how long a lane leases nothing, so that its successor can take it
	// without a duplicate. If attempts take longer, the lane stays, and tries again after
	// leaveAgain.
	leaveWithin = 2 * time.Second
	leaveAgain  = 15 * time.Second
)

// leave begins to leave the lane, or stops that.
func (l *lane) leave(leaving bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leaving = leaving
	signal(l.wake)
}

// isIdle reports whether nothing is leased and all settlements are stored.
func (l *lane) isIdle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.leased) == 0 && len(l.committing) == 0 && len(l.settled) == 0
}

// commit stores all settlements: first the cursor, which only the owner of the lane can
// store, then the records. Until the next cursor is stored, a delivery with a record may
// also be in the gaps of the last cursor. Then the record counts.
func (l *lane) commit(ctx context.Context, lock *lock) (err error) {
	l.mu.Lock()
	all, syncing := l.settled, l.syncing
	l.settled, l.syncing = nil, nil
	l.storing = time.Now()
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.storing = time.Time{}
		l.mu.Unlock()
		signal(l.wake)
		if errors.Is(err, errSequence) || errors.Is(err, errLaneLost) {
			err = fmt.Errorf("%w: %w", queue.ErrLeaseLost, err)
		}
		for _, stored := range syncing {
			stored <- err
		}
	}()
	began := time.Now()
	var delivered, recorded []*settled
	l.mu.Lock()
	for _, s := range all {
		if _, has := l.records[s.seq]; s.Kind == queue.SettleAck && !has {
			delivered = append(delivered, s)
		} else {
			recorded = append(recorded, s)
		}
	}
	l.mu.Unlock()
	for {
		n, bytes := 0, 0
		for n < len(delivered) && n < cursorEntries && bytes < cursorBytes {
			bytes += size(delivered[n].Attempt)
			n++
		}
		if err := l.insistOwned(ctx, lock, func(ctx context.Context) error { return l.storeCursor(ctx, delivered[:n]) }); err != nil {
			return err
		}
		if delivered = delivered[n:]; len(delivered) == 0 {
			break
		}
	}
	err = eachOf(recordsAtOnce, recorded, func(s *settled) error {
		l.mu.Lock()
		r := l.records[s.seq]
		l.mu.Unlock()
		return l.storeRecord(ctx, lock, s, r)
	})
	if err != nil {
		return err
	}
	l.q.noteCommit(time.Since(began))
	return nil
}

// size returns about how many bytes an attempt takes in the log.
func size(a queue.Attempt) int {
	n := 300 + len(a.Error) + (len(a.RequestBody)+len(a.ResponseBody))*4/3
	for _, h := range slices.Concat(a.RequestHeaders, a.ResponseHeaders) {
		n += len(h.Name) + len(h.Value) + 24
	}
	return n
}

var errLaneLost = errors.New("the lane's lock has expired")

// insistOwned repeats a call while this relay owns the lane, even if an election takes
// longer than the queue's patience.
func (l *lane) insistOwned(ctx context.Context, lock *lock, call func(context.Context) error) error {
	for {
		if lock.lost() {
			return errLaneLost
		}
		err := call(ctx)
		if err == nil || !errors.Is(err, queue.ErrUnavailable) && !errors.Is(err, queue.ErrFull) || ctx.Err() != nil {
			return err
		}
		if err := l.q.pause(ctx, pauseFor); err != nil {
			return err
		}
	}
}

// storeRecord stores a settlement as a record. before is the delivery's last record, or
// zero if it has none.
func (l *lane) storeRecord(ctx context.Context, lock *lock, s *settled, before record) error {
	head := recordHead{Was: before.State, Origin: before.Origin, Rung: before.Rung, Attempts: before.Attempts, By: l.token}
	if before.seq == 0 {
		head.Origin = originFresh
		before.State = queue.Pending
	}
	switch s.Kind {
	case queue.SettleAck:
		head.State = queue.Delivered
	case queue.SettleDead:
		head.State = queue.Failed
		head.Rung++
	case settleRedacted:
		head.State = queue.Failed
	case queue.SettleRetry:
		head.State = queue.Retrying
		head.Rung++
		head.Due = l.q.serverNanos(s.At)
	case queue.SettleDefer:
		head.State = before.State
		head.Due = l.q.serverNanos(s.At)
	}
	m := nats.NewMsg(l.q.names.record(l.webhook, s.seq))
	if s.isAttempted() {
		head.Attempts++
		body, err := json.Marshal(newAttemptEntry(s.Attempt))
		if err != nil {
			return err
		}
		m.Data = body
	}
	if !head.State.Waiting() {
		head.Ended = l.q.serverNanos(s.at)
	}
	if err := setHead(m, headerRecord, head); err != nil {
		return err
	}
	var seq uint64
	err := l.insistOwned(ctx, lock, func(ctx context.Context) (err error) {
		seq, err = l.q.publish(ctx, m, after(before.seq))
		return err
	})
	stored := record{head, seq}
	if errors.Is(err, errSequence) { // another call requeued the delivery
		if stored, err = l.q.readRecord(ctx, l.webhook, s.seq); err != nil {
			return err
		}
	}
	if err != nil {
		return fmt.Errorf("storing what became of a delivery: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.committing, s.seq)
	if l.records != nil {
		l.recorded(s.seq, stored)
	}
	l.release()
	signal(l.wake)
	return nil
}

// storeCursor stores how far the lane has come, with the log of the deliveries that
// succeeded since the last cursor.
func (l *lane) storeCursor(ctx context.Context, delivered []*settled) error {
	entries := make([]logged, len(delivered))
	l.mu.Lock()
	passed := maps.Clone(l.passed)
	c := cursor{Head: l.head, Taken: l.taken, Delivered: l.delivered + int64(len(delivered)), By: l.token}
	chain := l.chain
	c.Erasing = l.releasing()
	l.mu.Unlock()
	for i, s := range delivered {
		delete(passed, s.seq)
		entries[i] = logged{Seq: s.seq, Ended: l.q.serverNanos(s.at), Attempt: newAttemptEntry(s.Attempt)}
	}
	c.Gaps = slices.Sorted(maps.Keys(passed))
	m := nats.NewMsg(l.q.names.cursor(l.webhook))
	if len(entries) > 0 {
		body, err := json.Marshal(entries)
		if err != nil {
			return err
		}
		m.Data = body
	}
	if err := setHead(m, headerCursor, c); err != nil {
		return err
	}
	seq, err := l.q.publish(ctx, m, after(chain))
	if err != nil {
		return fmt.Errorf("storing a lane's cursor: %w", err)
	}
	l.q.attempts.add(l.webhook, seq, entries)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.chain, l.delivered, l.released = seq, c.Delivered, max(l.released, c.Erasing)
	for _, s := range delivered {
		delete(l.passed, s.seq)
		delete(l.committing, s.seq)
	}
	l.release()
	return nil
}

// noteCommit adds the time of one durable commit to the moving average.
func (q *Queue) noteCommit(took time.Duration) {
	before := q.commit.Load()
	q.commit.Store(before + (int64(took)-before)/8)
}
