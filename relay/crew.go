package relay

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/userhero/relay/queue"
)

// idleWorker is how long a worker waits for another delivery, and at most twice
// that.
const idleWorker = 5 * time.Second

// crew are the workers of a lane: each makes one delivery after the other. Who
// became idle last works next, and who has not been needed for a while goes.
type crew struct {
	deliver func(task)
	rested  func() // called when a worker has become idle
	working sync.WaitGroup

	mu     sync.Mutex // guards everything below
	idle   []*worker  // who became idle first comes first
	round  int        // of dismissals
	timer  *time.Timer
	closed bool
}

// worker is one goroutine.
type worker struct {
	tasks chan task // of capacity 1; closed where it is to go
	round int       // in which it became idle
}

func newCrew(deliver func(task), rested func()) *crew {
	return &crew{deliver: deliver, rested: rested}
}

// take has a delivery made. One goroutine calls it, and close after that.
func (c *crew) take(t task) {
	c.mu.Lock()
	last := len(c.idle) - 1
	if last < 0 {
		c.mu.Unlock()
		c.working.Go(func() { c.labour(t) })
		return
	}
	w := c.idle[last]
	c.idle[last] = nil
	c.idle = c.idle[:last]
	c.mu.Unlock()
	w.tasks <- t
}

// labour is the life of a worker, from its first delivery on.
func (c *crew) labour(t task) {
	w := &worker{tasks: make(chan task, 1)}
	for ok := true; ok; t, ok = <-w.tasks {
		c.deliver(t)
		c.rest(w)
		c.rested()
	}
}

// rest lets a worker wait for the next task.
func (c *crew) rest(w *worker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		close(w.tasks)
		return
	}
	w.round = c.round
	c.idle = append(c.idle, w)
	if c.timer == nil {
		c.timer = time.AfterFunc(idleWorker, c.dismiss)
	}
}

// dismiss lets go who has been idle since the time before, and comes again while
// somebody is idle.
func (c *crew) dismiss() {
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
		c.timer = time.AfterFunc(idleWorker, c.dismiss)
	}
}

// close waits until what is under way has been settled, and every worker has
// gone.
func (c *crew) close() {
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
	c.working.Wait()
}

// task is a delivery with the target that was in force when it was taken.
type task struct {
	lease    *queue.Lease
	target   *target
	attempts context.Context //nolint:containedctx // its end cuts the attempt off
}
