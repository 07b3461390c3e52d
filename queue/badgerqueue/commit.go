package badgerqueue

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
)

const (
	// maxQueued bounds the operations that wait for the committer, and
	// maxPending the bytes of new events among them; beyond, Enqueue answers
	// queue.ErrFull.
	maxQueued  = 8192
	maxPending = 64 << 20
	// lazyDelay is how long a commit that nobody waits for (only settlements)
	// waits for company. A crash in that time makes duplicates, no losses.
	lazyDelay = 10 * time.Millisecond
	// mostYields bounds how often a commit lets others go first.
	mostYields = 3
	// stallPoll is how often free space is looked at while nothing may be
	// written.
	stallPoll = 200 * time.Millisecond
)

// operation is one thing to commit.
type operation interface {
	// cost is about how many entries and bytes it writes, and rather more.
	cost() (entries, bytes int)
	// lazy tells that nobody waits for it.
	lazy() bool
	// apply writes into the batch. When it returns an error it has written
	// nothing, and only this operation fails.
	apply(b *batch) error
	// done hands over the outcome, after the commit; effects on lanes come
	// first, so what is told here can be seen.
	done(err error)
}

// committer is the store's only writer. Its fields belong to its goroutine.
type committer struct {
	s      *Store
	state  state
	recent *recents
	batch  batch
	log    *commitLog // nil: Badger syncs, or nobody
	// outdated reports that the store on disk has an older format: the next commit
	// gives it this one.
	outdated bool
	errs     []error // of the batch's operations

	maxEntries, maxBytes int // of one Badger transaction
	timer                *time.Timer
}

func (c *committer) init(s *Store) {
	c.s = s
	c.state = *s.shown.Load()
	c.outdated = s.outdated
	c.recent = new(recents)
	if !badgerSyncs() && !s.o.unsynced {
		c.log = newCommitLog(s.db)
	}
	// Some room is kept for what a batch adds of its own: the state record and
	// a lane record per webhook.
	c.maxEntries = int(s.db.MaxBatchCount()) * 3 / 4
	c.maxBytes = int(s.db.MaxBatchSize()) * 3 / 4
	c.timer = time.NewTimer(time.Hour)
	c.timer.Stop()
}

// run commits until the store stops and nothing waits any more.
func (c *committer) run() {
	var batch []operation
	for {
		batch = c.gather(batch[:0])
		if len(batch) == 0 {
			c.keepTime()
			return
		}
		c.commit(batch)
	}
}

// keepTime writes how far the time of day was set since the last commit.
func (c *committer) keepTime() {
	if c.s.clock.movedFrom(c.state.shift) && c.s.failure() == nil && c.s.disk.roomToWrite() {
		c.commit([]operation{&waitedOp{do: func(*batch) error { return nil }, result: make(chan error, 1)}})
	}
}

// gather waits for an operation and takes what else waits. What is about to come,
// because its goroutine could run and has no turn yet, is let come first: where
// cores are busy that takes a quarter of the commits away, and where they are not it takes no time.
// When all of it is lazy it waits a moment for company. None means that the store
// stops.
func (c *committer) gather(batch []operation) []operation {
	urgent := false
	add := func(op operation) {
		batch = append(batch, op)
		urgent = urgent || !op.lazy()
	}
	select {
	case op := <-c.s.ops:
		add(op)
	case <-c.s.stop:
		select {
		case op := <-c.s.ops:
			add(op)
		default:
			return nil
		}
	}
	yields, taken := mostYields, 0
	for waited := false; len(batch) < maxQueued; {
		select {
		case op := <-c.s.ops:
			add(op)
			continue
		default:
		}
		if urgent && yields > 0 && len(batch) > taken {
			yields, taken = yields-1, len(batch)
			runtime.Gosched()
			continue
		}
		if urgent || waited {
			return batch
		}
		c.timer.Reset(lazyDelay)
		for !urgent && !waited && len(batch) < maxQueued {
			select {
			case op := <-c.s.ops:
				add(op)
			case <-c.timer.C:
				waited = true
			case <-c.s.stop:
				waited = true
			}
		}
		c.timer.Stop()
	}
	return batch
}

// stall holds what must be written until there is room, and refuses new events
// meanwhile.
func (c *committer) stall(batch []operation) []operation {
	c.s.log.Error("nothing is written: the disk is full", "path", c.s.o.Path, "free", c.s.disk.free())
	refuse := func(held []operation) []operation {
		keep := held[:0]
		for _, op := range held {
			if e, ok := op.(*enqueueOp); ok {
				e.done(c.s.disk.roomToAccept())
			} else {
				keep = append(keep, op)
			}
		}
		return keep
	}
	var held []operation
	held = refuse(append(held, batch...))
	tick := time.NewTicker(stallPoll)
	defer tick.Stop()
	for !c.s.disk.roomToWrite() {
		ops := c.s.ops
		if len(held) >= maxQueued {
			ops = nil
		}
		select {
		case op := <-ops:
			held = append(held, op)
			held = refuse(held)
		case <-tick.C:
		case <-c.s.stop:
			// What is not written is attempted again at the next start.
			finish(held, fmt.Errorf("%w: the disk is full", queue.ErrFull))
			return nil
		}
	}
	c.s.log.Info("writing again", "path", c.s.o.Path, "free", c.s.disk.free())
	return held
}

func finish(ops []operation, err error) {
	for _, op := range ops {
		op.done(err)
	}
}

// commit commits the operations, with one fsync for as many as fit one
// transaction. Before each there must be room on the disk.
func (c *committer) commit(ops []operation) {
	for len(ops) > 0 {
		if err := c.s.failure(); err != nil {
			finish(ops, err)
			return
		}
		if !c.s.disk.roomToWrite() {
			ops = c.stall(ops)
			continue
		}
		n := c.commitSome(ops)
		clear(ops[:n])
		ops = ops[n:]
	}
}

// commitSome applies operations, commits them, tells the lanes and then everyone
// who waits. It returns how many those were.
func (c *committer) commitSome(ops []operation) int {
	b := &c.batch
	b.begin(c)
	defer b.txn.Discard()
	c.errs = c.errs[:0]
	for i, op := range ops {
		if i > 0 && !b.takes(op) {
			break
		}
		err := op.apply(b)
		c.errs = append(c.errs, err)
		if errors.Is(err, badger.ErrTxnTooBig) {
			// A cost that was wrong: the transaction cannot be trusted to hold
			// what was applied, so nothing of it is committed.
			c.fail(ops, fmt.Errorf("a batch of %d operations outgrew its transaction: %w", i+1, err))
			return len(ops)
		}
	}
	ops = ops[:len(c.errs)]
	c.commitBatch(b, ops)
	return len(ops)
}

func (c *committer) commitBatch(b *batch, ops []operation) {
	if err := b.finish(); err != nil {
		c.fail(ops, fmt.Errorf("writing a batch: %w", err))
		return
	}
	start := time.Now()
	c.s.visible.Lock()
	if err := c.write(b); err != nil { // Promise 1: the answer comes after the commit.
		c.s.visible.Unlock()
		c.fail(ops, fmt.Errorf("committing to %s: %w", c.s.o.Path, err))
		return
	}
	// There is one writer, so a transaction's number follows what it read.
	if err := c.s.high.set(mark{seq: b.stateOf.seq, commit: b.txn.ReadTs() + 1}); err != nil {
		_ = c.s.latch(fmt.Errorf("writing the high-water mark: %w", err))
	}
	if err := c.s.failure(); err != nil { // Promise 1: Badger itself goes on after some of its failures.
		c.s.visible.Unlock()
		finish(ops, err)
		return
	}
	c.applied(b)
	c.s.visible.Unlock()
	took := time.Since(start)
	for i, op := range ops {
		op.done(c.errs[i])
	}
	c.s.latency.Store(c.s.latency.Load()*7/8 + int64(took)/8)
	c.s.disk.wrote(int64(b.bytes))
	if c.s.o.OnCommit != nil {
		c.s.o.OnCommit(took, len(ops))
	}
	select {
	case c.s.moved <- struct{}{}:
	default:
	}
	// The goroutine woken last has the first turn when this one waits, and a core
	// that must wake up for another takes 50 µs: deliveries go before answers.
	for _, f := range b.fresh {
		f.hook.wake()
	}
	if c.log.short() {
		runtime.Gosched() // who was told something does not wait for this
		if err := c.log.extend(); err != nil {
			_ = c.s.latch(fmt.Errorf("writing ahead in %s: %w", c.s.o.Path, err))
		}
	}
}

// write commits the batch's transaction, which is on the disk when it returns.
func (c *committer) write(b *batch) error {
	if err := b.txn.Commit(); err != nil || c.log == nil {
		return err
	}
	return c.log.sync() // Promise 1: every commit is synced.
}

// fail refuses the operations of a batch that could not be written.
func (c *committer) fail(ops []operation, err error) {
	finish(ops, c.s.latch(err))
}

// latch makes the store take nothing more: after a failed write nobody knows
// what the disk holds, so nothing is acknowledged until it has been opened anew.
func (s *Store) latch(err error) error {
	err = fmt.Errorf("%w: %w; restart to read what the disk holds", queue.ErrFailed, firstLine{err})
	if !s.o.trusting && s.failed.CompareAndSwap(nil, &err) { // Promise 1: after a failed write nothing is acknowledged.
		s.log.Error("the store takes no more events", "error", err)
	}
	return err
}

// firstLine is an error without the stack that some of Badger's carry in their
// text: whoever submits is told it.
type firstLine struct{ error }

func (e firstLine) Error() string {
	line, _, _ := strings.Cut(e.error.Error(), "\n")
	return line
}

func (e firstLine) Unwrap() error { return e.error }

// applied makes the committed batch visible to lanes and readers.
func (c *committer) applied(b *batch) {
	c.state, c.outdated = b.stateOf, false
	shown := c.state
	c.s.shown.Store(&shown)
	for seq := range b.retired {
		c.recent.forget(seq)
	}
	for seq, t := range b.touched {
		if t.ds.wait() {
			c.recent.put(seq, t.ds)
		} else {
			c.recent.forget(seq)
		}
	}
	for h := range b.hooks {
		h.show()
	}
	for _, s := range b.settled {
		s.hook.settled(s.seq)
	}
	for h, added := range b.hooks {
		for _, t := range added {
			h.pushWaiting(t)
		}
	}
	for _, f := range b.fresh {
		f.hook.pushFresh(f.event)
	}
	for _, effect := range b.effects {
		effect()
	}
}

// waits tells whether any delivery has attempts to come. One whose webhook was
// deleted has none; one whose webhook is parked has, unless parked is to count
// as ended.
func (s *Store) waits(ds deliveries, parkedEnded bool) bool {
	for _, d := range ds {
		if !d.state.Waiting() {
			continue
		}
		if h := s.hook(d.webhook); h != nil && !(parkedEnded && h.parked()) {
			return true
		}
	}
	return false
}

func (h *hook) parked() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.expires
}
