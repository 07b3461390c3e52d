package relay

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/userhero/relay/queue"
)

// idleWorker is the shortest time a worker waits for another delivery. The longest is
// twice as much.
const idleWorker = 5 * time.Second

// workerPool holds the workers of a lane. A worker makes one delivery after another.
// The worker that became idle last gets the next task. Workers that stay idle end.
type workerPool struct {
	deliver func(task)
	onIdle  func() // called when a worker becomes idle
	running sync.WaitGroup

	mu     sync.Mutex // guards everything below
	idle   []*worker  // longest idle first
	round  int        // counts calls of closeIdle
	timer  *time.Timer
	closed bool
}

// worker is one goroutine.
type worker struct {
	tasks chan task // of capacity 1; closed to end the worker
	round int       // the round in which it became idle
}

func newWorkerPool(deliver func(task), onIdle func()) *workerPool {
	return &workerPool{deliver: deliver, onIdle: onIdle}
}

// deliverTask hands a task to a worker. One goroutine calls it, and later close.
func (c *workerPool) deliverTask(t task) {
	c.mu.Lock()
	last := len(c.idle) - 1
	if last < 0 {
		c.mu.Unlock()
		c.running.Go(func() { c.work(t) })
		return
	}
	w := c.idle[last]
	c.idle[last] = nil
	c.idle = c.idle[:last]
	c.mu.Unlock()
	w.tasks <- t
}

// work runs a worker's goroutine, starting with task t.
func (c *workerPool) work(t task) {
	w := &worker{tasks: make(chan task, 1)}
	for ok := true; ok; t, ok = <-w.tasks {
		c.deliver(t)
		c.addIdle(w)
		c.onIdle()
	}
}

// addIdle lets a worker wait for the next task.
func (c *workerPool) addIdle(w *worker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		close(w.tasks)
		return
	}
	w.round = c.round
	c.idle = append(c.idle, w)
	if c.timer == nil {
		c.timer = time.AfterFunc(idleWorker, c.closeIdle)
	}
}

// closeIdle ends workers that have been idle since its last call. It schedules itself
// again while any worker is idle.
func (c *workerPool) closeIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for n < len(c.idle) && c.idle[n].round < c.round {
		close(c.idle[n].tasks)
		n++
	}
	c.idle = slices.Delete(c.idle, 0, n)
	c.round++
	if c.timer = nil; len(c.idle) > 0 && !c.closed {
		c.timer = time.AfterFunc(idleWorker, c.closeIdle)
	}
}

// close waits until every delivery is settled and every worker has ended.
func (c *workerPool) close() {
	c.mu.Lock()
	c.closed = true
	for _, w := range c.idle {
		close(w.tasks)
	}
	c.idle = nil
	if c.timer != nil {
		c.timer.Stop()
	}
	c.mu.Unlock()
	c.running.Wait()
}

// task is a delivery with the target that was in force when it was leased.
type task struct {
	lease    *queue.Lease
	target   *target
	attempts context.Context //nolint:containedctx // its end cuts the attempt off
}
