package memqueue_test

import (
	"testing"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
	"github.com/userhero/relay/queue/queuetest"
)

// TestKeepsEveryPromise runs the suite twice: with settlements that are durable at
// once, and with settlements that a crash can lose.
func TestKeepsEveryPromise(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]memqueue.Options{"settles at once": {}, "settles lazily": {LazySettles: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			queuetest.Run(t, harness(o))
		})
	}
}

func harness(o memqueue.Options) queuetest.Harness {
	again := func(t *testing.T, q queue.Queue) queue.Queue {
		t.Helper()
		m, ok := q.(*memqueue.Queue)
		if !ok {
			t.Fatalf("the suite gave back a %T", q)
		}
		return m.Crash()
	}
	o.Shared = true
	return queuetest.Harness{
		Join: func(_ *testing.T, q queue.Queue) queue.Queue { return q.(*memqueue.Queue).Join() },  //nolint:forcetypeassert // the suite gives back what it got
		Lose: func(_ *testing.T, q queue.Queue, w queue.WebhookID) { q.(*memqueue.Queue).Lose(w) }, //nolint:forcetypeassert // the suite gives back what it got
		Open: func(*testing.T) queue.Queue { return memqueue.New(o) },
		OpenOn: func(_ *testing.T, c queue.Clock) queue.Queue {
			o := o
			o.Clock = c
			return memqueue.New(o)
		},
		Erases:  true,
		Redacts: true,
		OpenWithin: func(_ *testing.T, l queue.Limits) queue.Queue {
			o := o
			o.Limits = l
			return memqueue.New(o)
		},
		Reopen: again,
		Crash:  again,
	}
}
