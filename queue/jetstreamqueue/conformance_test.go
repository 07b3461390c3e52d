package jetstreamqueue_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/jetstreamqueue"
	"github.com/userhero/relay/queue/queuetest"
)

var prefixes atomic.Int64

// soak is how many times over the long runs go, by the environment's SOAK; 0, the
// default, is a short run that fits a build.
func soak() int {
	n, _ := strconv.Atoi(os.Getenv("SOAK"))
	return n
}

// harness is how the suite gets at queues on some servers.
func harness(servers []*server) queuetest.Harness {
	var opened sync.Map // of a queue.Queue: its options
	open := func(t *testing.T, o jetstreamqueue.Options) queue.Queue {
		t.Helper()
		o.Servers, o.Logger = urls(servers), slog.New(slog.DiscardHandler)
		q, err := jetstreamqueue.Open(context.Background(), o)
		if err != nil {
			t.Fatal(err)
		}
		opened.Store(q, o)
		return q
	}
	fresh := func(t *testing.T, l queue.Limits) queue.Queue {
		t.Helper()
		return open(t, jetstreamqueue.Options{Prefix: fmt.Sprintf("t%d", prefixes.Add(1)), Limits: l})
	}
	optionsOf := func(t *testing.T, q queue.Queue) jetstreamqueue.Options {
		t.Helper()
		o, ok := opened.Load(q)
		if !ok {
			t.Fatal("the suite gave back a queue that it did not get")
		}
		return o.(jetstreamqueue.Options)
	}
	return queuetest.Harness{
		Open:       func(t *testing.T) queue.Queue { t.Helper(); return fresh(t, queue.Limits{}) },
		OpenWithin: fresh,
		Erases:     true,
		Redacts:    true,
		Reopen:     func(t *testing.T, q queue.Queue) queue.Queue { t.Helper(); return open(t, optionsOf(t, q)) },
		Crash: func(t *testing.T, q queue.Queue) queue.Queue {
			t.Helper()
			if err := q.(*jetstreamqueue.Queue).Abandon(); err != nil { //nolint:forcetypeassert // the suite gives back what it got
				t.Fatal(err)
			}
			return open(t, optionsOf(t, q))
		},
		Join: func(t *testing.T, q queue.Queue) queue.Queue { t.Helper(); return open(t, optionsOf(t, q)) },
		Lose: func(t *testing.T, q queue.Queue, w queue.WebhookID) {
			t.Helper()
			if err := q.(*jetstreamqueue.Queue).Oversleep(w); err != nil { //nolint:forcetypeassert // the suite gives back what it got
				t.Fatal(err)
			}
		},
		Retention: time.Second * time.Duration(1+min(soak(), 1)),
		MaxDisk:   12 << 20,
		Steps:     600 * (1 + soak()),
		Patience:  time.Minute,
	}
}

// TestKeepsEveryPromise runs the suite that every engine runs, on one server.
func TestKeepsEveryPromise(t *testing.T) {
	t.Parallel()
	queuetest.Run(t, harness([]*server{oneServer(t)}))
}

// TestClusterKeepsEveryPromise runs it on three servers that hold each message.
func TestClusterKeepsEveryPromise(t *testing.T) {
	if soak() == 0 {
		// One server is asked the same; what three do otherwise is in faults_test.go.
		return
	}
	t.Parallel()
	queuetest.Run(t, harness(cluster(t)))
}
