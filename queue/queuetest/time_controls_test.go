package queuetest_test

import (
	"context"
	"sync"
	"time"

	"github.com/userhero/relay/queue"
)

// timeFaults are the faults of engines that believe the wrong clock.
var timeFaults = map[string]struct {
	// breakIt wraps a queue that is opened on a clock.
	breakIt func(q queue.Queue, c queue.Clock) queue.Queue
	// sleepless engines are not told what the machine slept.
	sleepless bool
}{
	"due times are times of day": {breakIt: waitsByTheTimeOfDay()},
	"sleep is no time":           {sleepless: true},
}

// unbroken leaves the queue to a fault of time.
func unbroken(q queue.Queue, _ bool) queue.Queue { return &sound{q} }

// waitsByTheTimeOfDay holds a retry back until the time of day at which it was
// due when it was settled.
func waitsByTheTimeOfDay() func(queue.Queue, queue.Clock) queue.Queue {
	var due sync.Map // of a delivery
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
