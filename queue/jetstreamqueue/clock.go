package jetstreamqueue

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
)

// The clocks of relays may differ by seconds. So times that one relay stores and another
// one acts on are stored by the servers' clock. Each relay measures how far its own clock
// differs from that clock.

// clockSlack is the difference that is not corrected, because the clocks of the servers
// differ too.
const clockSlack = 250 * time.Millisecond

// measureClock compares this machine's clock with the servers'.
func (q *Queue) measureClock(ctx context.Context) error {
	m := nats.NewMsg(q.names.lock("clock-" + q.node)) // it expires, as a lock does
	began := time.Now()
	seq, err := q.publish(ctx, m, whatever)
	if err != nil {
		return err
	}
	answered := time.Now()
	q.answered.Store(&answered)
	stored, err := q.get(ctx, q.names.locks(), getRequest{Seq: seq})
	if err != nil {
		return ignoreNotFound(err)
	}
	q.ahead.Store(int64(corrected(time.Duration(q.ahead.Load()), stored.at.Sub(answered), stored.at.Sub(began))))
	return nil
}

// corrected returns by how much the servers' clock is ahead. It was believed to be ahead by
// before; now it is known to be ahead by at least least and at most most. An answer that
// took long, as in an election, says little. So what may be right stays: a due time that
// was stored must not move.
func corrected(before, least, most time.Duration) time.Duration {
	for _, ahead := range []time.Duration{before, 0} {
		if least-clockSlack <= ahead && ahead <= most+clockSlack {
			return ahead
		}
	}
	return (least + most) / 2
}

// serverNanos returns the stored form of a due time, by the servers' clock. 0 means at
// once.
func (q *Queue) serverNanos(t time.Time) int64 {
	// UnixNano cannot hold times that are centuries away.
	const latest = 1<<62 - 1
	switch {
	case t.IsZero() || t.Year() < 1971:
		return 0
	case t.Year() > 2100:
		return latest
	}
	return t.UnixNano() + q.ahead.Load()
}

// localTime returns a stored due time by this machine's clock.
func (q *Queue) localTime(nanos int64) time.Time {
	if nanos == 0 {
		return time.Time{}
	}
	return time.Unix(0, nanos-q.ahead.Load()).UTC()
}
