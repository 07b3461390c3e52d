package jetstreamqueue

import (
	"context"
	"fmt"
	"time"

	"github.com/userhero/relay/queue"
)

// statsWait bounds how long Stats waits for this relay to have read what is stored.
const statsWait = 250 * time.Millisecond

// Stats implements queue.Queue. If the servers do not answer it counts what this relay
// has read so far.
func (q *Queue) Stats() queue.Stats {
	ctx, cancel := context.WithTimeout(context.Background(), tryFor)
	defer cancel()
	s, _ := q.stats(ctx)
	return s
}

// stats counts over all relays. With an error it counts what this relay has read.
func (q *Queue) stats(ctx context.Context) (queue.Stats, error) {
	st := queue.Stats{Webhooks: make(map[queue.WebhookID]queue.WebhookStats), DiskFree: -1, Commit: time.Duration(q.commit.Load())}
	events, err := q.info(ctx, q.names.events(), "")
	var state streamState
	if err == nil {
		state, err = q.info(ctx, q.names.state(), "")
	}
	if err == nil {
		q.size.note(events.bytes)
		st.Events, st.DiskBytes = int64(events.messages), int64(events.bytes+state.bytes)
		err = q.ledger.wait(ctx, events.last, state.last, statsWait)
	}
	now := time.Now()
	for id := range q.registry.all() {
		var w queue.WebhookStats
		if l := q.laneOf(id); l != nil {
			w.OldestDue = l.oldestDue(now)
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

// room is queue.ErrFull at MaxDisk.
func (q *Queue) room() error {
	most := q.limit().MaxDisk
	if have := q.size.get(); most > 0 && have >= most {
		return fmt.Errorf("%w: the events have %d bytes and max_disk is %d; raise it or shorten the retention", queue.ErrFull, have, most)
	}
	return nil
}
