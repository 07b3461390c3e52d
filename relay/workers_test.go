package relay

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestWorkersStayWhileTheyAreNeeded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var rested atomic.Int64
		c := newWorkerPool(func(task) { time.Sleep(time.Second) }, func() { rested.Add(1) })
		idle := func() int {
			synctest.Wait()
			c.mu.Lock()
			defer c.mu.Unlock()
			return len(c.idle)
		}
		for range 10 {
			c.deliverTask(task{})
		}
		time.Sleep(time.Second)
		if n := idle(); n != 10 || rested.Load() != 10 {
			t.Fatalf("%d of 10 idle after their work, %d told of", n, rested.Load())
		}
		for range 4 * idleWorker / time.Second {
			c.deliverTask(task{})
			c.deliverTask(task{})
			time.Sleep(time.Second)
			idle() // wait before the next tasks come
		}
		if n := idle(); n != 2 {
			t.Errorf("%d are left where two were needed", n)
		}
		time.Sleep(2 * idleWorker)
		if n := idle(); n != 0 || c.timer != nil {
			t.Errorf("%d are left where none was needed, timer %v", n, c.timer)
		}
		c.deliverTask(task{})
		c.close()
		if n := idle(); n != 0 || rested.Load() != 10+2*4*int64(idleWorker/time.Second)+1 {
			t.Errorf("closed with %d idle before %d had ended", n, rested.Load())
		}
	})
}
