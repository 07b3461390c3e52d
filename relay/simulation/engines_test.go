package simulation

import (
	"context"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
)

// engine is a store that outlives the processes on it.
type engine interface {
	// open opens it, after close or crash.
	open() (queue.Queue, error)
	// close ends it well.
	close() error
	// crash ends it, while nothing happens, as a killed process does. What it held stays, but for
	// settlements that were not yet committed.
	crash() error
	// sync makes every settlement durable, where the engine does so by itself
	// within settling.
	sync()
	// settling is how long a settlement may take to be read and durable.
	settling() time.Duration
}

// inMemory is memqueue, whose settlements wait for a commit.
type inMemory struct {
	q *memqueue.Queue
}

// retention is how long the engines keep what has ended: so that a world stays
// small, and retention is at work too.
const retention = 4 * time.Hour

func newInMemory(*testing.T) engine {
	return &inMemory{memqueue.New(memqueue.Options{LazySettles: true, Limits: queue.Limits{Retention: retention}})}
}

func (e *inMemory) open() (queue.Queue, error) { return e.q, nil }
func (e *inMemory) sync()                      { e.q.Sync() }
func (e *inMemory) settling() time.Duration    { return 0 }

func (e *inMemory) close() error {
	err := e.q.Close(context.Background())
	e.q = e.q.Crash()
	return err
}

func (e *inMemory) crash() error {
	e.q = e.q.Crash()
	return nil
}
