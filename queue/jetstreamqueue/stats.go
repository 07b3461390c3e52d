package jetstreamqueue

import (
	"context"
	"fmt"
	"time"

	"github.com/userhero/relay/queue"
)

const (
	// statsWait is how long Stats waits at most until this relay has read all messages.
	statsWait = 250 * time.Millisecond
	// statsTry is how long Stats waits at most for the servers.
	statsTry = time.Second
)

// Stats implements queue.Reader. If the servers do not answer, it returns the counts of the
// messages that this relay has read so far.
func (q *Queue) Stats(ctx context.Context) queue.Stats {
	ctx, cancel := context.WithTimeout(ctx, statsTry)
	defer cancel()
	s, _ := q.stats(ctx)
	return s
}

// stats returns the counts over all relays. With an error it returns the counts of the
// messages that this relay has read.
func (q *Queue) stats(ctx context.Context) (queue.Stats, error) {
	began := time.Now()
	st := queue.Stats{
		Webhooks: make(map[queue.WebhookID]queue.WebhookStats), DiskFree: -1,
		Commit: time.Duration(q.commit.Load()), Shared: true, Unavailable: q.unavailable.Load(),
	}
	var events streamState
	err := queue.ErrUnavailable
	if q.nc.IsConnected() {
		events, err = q.info(ctx, q.names.events(), "")
	}
	var state streamState
	complete := false
	if err == nil {
		state, err = q.info(ctx, q.names.state(), "")
	}
	if err == nil {
		q.size.note(events.bytes)
		st.Events, st.DiskBytes = int64(events.messages), int64(events.bytes+state.bytes)
		q.ledger.noteSizes(st.Events, st.DiskBytes)
		complete, err = q.ledger.wait(ctx, events.last, state.last, statsWait)
		// A removed message is never read, so wait cannot see it. The counts are complete
		// too if both followers are reading.
		complete = complete || err == nil && q.isFollowed(q.names.events()) && q.isFollowed(q.names.state())
	} else {
		st.Events, st.DiskBytes = q.ledger.sizes()
	}
	st.AsOf = q.ledger.asOf(began, complete)
	now := time.Now()
	for id := range q.registry.all() {
		var w queue.WebhookStats
		if l := q.laneOf(id); l != nil && l.Owned() {
			w.OldestDue, w.Owned = l.oldestDue(now), true
		} else if owner, ok := q.peers.owner(laneLock(id)); ok {
			w.OldestDue = q.localTime(owner.OldestDue)
		}
		q.ledger.mu.Lock()
		if a := q.ledger.accounts[id]; a != nil {
			w.Counts = a.counts()
		}
		q.ledger.mu.Unlock()
		st.Webhooks[id] = w
	}
	return st, err
}

// room returns queue.ErrFull if the events take MaxDisk or more.
func (q *Queue) room() error {
	most := q.limit().MaxDisk
	if have := q.size.get(); most > 0 && have >= most {
		return fmt.Errorf("%w: the events have %d bytes and max_disk is %d; raise it or shorten the retention", queue.ErrFull, have, most)
	}
	return nil
}
