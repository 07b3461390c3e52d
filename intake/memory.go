package intake

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/userhero/relay/queue"
)

// Memory bounds what submissions hold in memory, for all handlers that share it. A nil
// Memory has no bound.
//
// A body counts from when it arrives, as far as it has arrived: a client that sends
// slowly holds little. If there is no room for it, the submission is refused. A body
// that has arrived waits for its turn to be parsed, encoded and stored, which takes
// several times its size.
type Memory struct {
	limit   int64 // in bytes, of each of the two
	arrived atomic.Int64
	working *semaphore.Weighted
}

// NewMemory returns a Memory of at most so many bytes.
func NewMemory(bytes int64) *Memory {
	return &Memory{limit: bytes / 2, working: semaphore.NewWeighted(bytes / 2)}
}

const (
	// A buffer that grows is up to arrivedFactor times as large as what is in it.
	arrivedFactor = 2
	// workFactor is how many times its size a body takes while it is parsed, encoded and
	// stored (measured, docs/performance.md).
	workFactor = 6
	// turnTime is how long a submission waits for its turn. A commit of the largest
	// batch takes less.
	turnTime = 10 * time.Second
)

var errNoMemory = fmt.Errorf("%w: submissions hold all the memory that they may", queue.ErrFull)

// counted returns a reader whose bytes count. Its error is errNoMemory if there is no
// room for them. The caller gives back what the reader has taken.
func (m *Memory) counted(r io.Reader) *countedReader { return &countedReader{m: m, r: r} }

type countedReader struct {
	m     *Memory
	r     io.Reader
	taken int64
}

// Read implements io.Reader.
func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if c.m == nil || n == 0 {
		return n, err
	}
	size := arrivedFactor * int64(n)
	c.taken += size
	if c.m.arrived.Add(size) > c.m.limit { // Promise 4: what submissions hold is bounded.
		return n, errNoMemory
	}
	return n, err
}

// giveBack gives back what was taken. Calling it again, or on nil, does nothing.
func (c *countedReader) giveBack() {
	if c != nil && c.m != nil {
		c.m.arrived.Add(-c.taken)
		c.taken = 0
	}
}

// turn waits until a body of this size may be worked on. The caller calls done.
func (m *Memory) turn(ctx context.Context, size int) (done func(), err error) {
	if m == nil {
		return func() {}, nil
	}
	weight := min(workFactor*int64(size), m.limit)
	if !m.working.TryAcquire(weight) {
		ctx, cancel := context.WithTimeout(ctx, turnTime)
		defer cancel()
		if m.working.Acquire(ctx, weight) != nil {
			return nil, errNoMemory
		}
	}
	return func() { m.working.Release(weight) }, nil
}
