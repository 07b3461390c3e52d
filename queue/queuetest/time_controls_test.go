package queuetest_test

import (
	"context"
	"sync"
	"time"

	"github.com/userhero/relay/queue"
)

// timeFaults are the faults of engines that use the wrong clock.
var timeFaults = map[string]struct {
	// breakIt wraps a queue that was opened with a clock.
	breakIt func(q queue.Queue, c queue.Clock) queue.Queue
	// sleepless engines do not learn how long the machine slept.
	sleepless bool
}{
	"due times are times of day": {breakIt: waitsByTheTimeOfDay()},
	"sleep is no time":           {sleepless: true},
}

// unbroken leaves the queue unchanged: timeFaults holds the fault.
func unbroken(q queue.Queue, _ bool) queue.Queue { return &sound{q} }

// waitsByTheTimeOfDay holds back a retry until the time of day that was its due time
// when it was settled.
func waitsByTheTimeOfDay() func(queue.Queue, queue.Clock) queue.Queue {
	var due sync.Map // from a delivery to its due time
	return func(q queue.Queue, c queue.Clock) queue.Queue {
		return &wrapsLanes{q, func(l queue.Lane) queue.Lane { return &looksAtTheWall{l, c, &due} }}
	}
}

type looksAtTheWall struct {
	queue.Lane
	clock queue.Clock
	due   *sync.Map
}

func (l *looksAtTheWall) Next(ctx context.Context, most int) ([]*queue.Lease, error) {
	for {
		leases, err := l.Lane.Next(ctx, most)
		if err != nil {
			return nil, err
		}
		var out []*queue.Lease
		for _, lease := range leases {
			due, ok := l.due.Load(lease.Delivery.ID)
			if ok && due.(time.Time).After(l.clock.Wall()) {
				err = lease.Defer(time.Now().Add(5 * time.Millisecond))
			} else {
				out = append(out, queue.NewLease(lease.Delivery, lease.Event, settler{lease, l.settle(lease.Delivery.ID)}))
			}
		}
		if len(out) > 0 || err != nil {
			return out, err
		}
	}
}

func (l *looksAtTheWall) settle(id queue.DeliveryID) settling {
	return func(s queue.Settlement, pass func(queue.Settlement) error) error {
		if s.Kind == queue.SettleRetry {
			l.due.Store(id, l.clock.Wall().Add(time.Until(s.At)))
			s.At = time.Now()
		}
		return pass(s)
	}
}
