package badgerqueue

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/storefile"
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

// committer is the store's only writer. Its fields belong to its goroutine.
type committer struct {
	s     *Store
	batch batch
	errs  []error // of the batch's operations
	timer *time.Timer
}

func newCommitter(s *Store) *committer {
	c := &committer{s: s, batch: batch{s: s, committed: *s.shown.Load(), outdated: s.outdated}, timer: time.NewTimer(time.Hour)}
	c.batch.maxEntries, c.batch.maxBytes = transactionRoom(s.db)
	c.timer.Stop()
	return c
}

// run commits until the store stops and nothing waits any more.
func (c *committer) run() {
	var batch []operation
	for {
		batch = c.gather(batch[:0])
		if len(batch) == 0 {
			c.keepTime()
			c.s.commitLog.Close()
			return
		}
		c.commit(batch)
	}
}

// keepTime writes how far the time of day was set since the last commit.
func (c *committer) keepTime() {
	if c.s.clock.MovedFrom(c.batch.committed.shift) && c.s.failure() == nil && c.s.disk.RoomToWrite() {
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

// stall holds settlements until there is room to write them, and refuses what
// somebody waits for. It returns what is to be committed then; nothing when the
// store closes.
func (c *committer) stall(ops []operation) []operation {
	c.s.log.Error("nothing is written: the disk is full", "path", c.s.o.Path, "free", c.s.disk.Free())
	tick := time.NewTicker(stallPoll)
	defer tick.Stop()
	held := c.refuse(nil, ops)
	for !c.s.disk.RoomToWrite() {
		more := c.s.ops
		if len(held) >= maxQueued {
			more = nil
		}
		select {
		case op := <-more:
			held = c.refuse(held, []operation{op})
		case <-tick.C:
			held = c.refuse(held[:0], held)
		case <-c.s.ending:
			// What is not written is attempted again at the next start.
			refuseAll(held, c.s.disk.Full())
			return nil
		}
	}
	c.s.log.Info("writing again", "path", c.s.o.Path, "free", c.s.disk.Free())
	return held
}

// refuse answers the operations that somebody waits for, unless there is room
// again, and appends the others to held.
func (c *committer) refuse(held, ops []operation) []operation {
	for _, op := range ops {
		if !op.lazy() && !c.s.disk.RoomToWrite() { // Promise 1: what is refused is told so, and what is kept is committed.
			op.done(c.s.disk.Full())
		} else {
			held = append(held, op)
		}
	}
	return held
}

// refuseAll answers operations that were not committed; err is never nil.
func refuseAll(ops []operation, err error) {
	for _, op := range ops {
		op.done(err)
	}
}

// commit commits the operations, with one fsync for as many as fit one
// transaction. Before each there must be room on the disk.
func (c *committer) commit(ops []operation) {
	for len(ops) > 0 {
		if err := c.s.failure(); err != nil {
			refuseAll(ops, err)
			return
		}
		if !c.s.disk.RoomToWrite() {
			ops = c.stall(ops)
			continue
		}
		n := c.commitSome(ops)
		clear(ops[:n])
		ops = ops[n:]
	}
}

// commitSome commits the first of the operations, as many as fit one transaction,
// and answers them. It returns how many those were; none if the disk has no room.
func (c *committer) commitSome(ops []operation) int {
	for {
		n, err := c.fill(ops)
		if err == nil && !c.reserved() { // Promise 1: on a full disk nothing is written through a memory map.
			c.batch.giveUp()
			return 0
		}
		if err == nil {
			c.commitBatch(&c.batch, ops[:n])
			return n
		}
		c.batch.giveUp()
		if n == 0 { // not even the first fits
			c.refuseFirst(ops[0], err)
			return 1
		}
		ops = ops[:n]
	}
}

// reserved reports whether the batch has its place in the log on the disk. What is
// wrong with the disk otherwise is reported when the batch is written.
func (c *committer) reserved() bool {
	err := c.s.commitLog.Reserve(c.batch.logged())
	if storefile.NoRoom(err) {
		c.s.disk.Filled()
		return false
	}
	if err != nil {
		_ = c.s.latch(fmt.Errorf("writing ahead in %s: %w", c.s.o.Path, err))
	}
	return true
}

// fill puts operations into a new batch. It returns how many it took; or, with an
// error, how many to try when this batch has been given up, 0 when the first alone
// was too much.
func (c *committer) fill(ops []operation) (n int, err error) {
	b := &c.batch
	b.begin()
	c.errs = c.errs[:0]
	for i, op := range ops {
		if i > 0 && !b.takes(op) {
			break
		}
		writes := b.writes
		err := op.apply(b)
		if err != nil && b.writes != writes {
			return i, err // half of it is in the batch
		}
		c.errs = append(c.errs, err)
	}
	if err := b.finish(); err != nil {
		return len(c.errs) / 2, err
	}
	return len(c.errs), nil
}

// refuseFirst answers an operation that no transaction can hold.
func (c *committer) refuseFirst(op operation, err error) {
	if errors.Is(err, badger.ErrTxnTooBig) {
		err = fmt.Errorf("%w: it does not fit one transaction of the store", queue.ErrTooLarge)
	}
	if op.lazy() {
		c.s.log.Error("a settlement cannot be stored: its delivery is attempted again after a restart", "error", err)
	}
	op.done(err)
}

// commitBatch writes the batch, tells the lanes and then everyone who waits.
func (c *committer) commitBatch(b *batch, ops []operation) {
	defer b.txn.Discard()
	start := time.Now()
	if err := c.write(b); err != nil { // Promise 1: the answer comes after the commit.
		c.fail(ops, fmt.Errorf("committing to %s: %w", c.s.o.Path, err))
		return
	}
	// There is one writer, so a transaction's number follows what it read.
	if err := c.s.high.Set(storefile.Mark{Seq: b.stateOf.seq, Commit: b.txn.ReadTs() + 1}); err != nil {
		_ = c.s.latch(fmt.Errorf("writing the high-water mark: %w", err))
	}
	if !c.s.high.InPlace() { // Promise 1: nothing is acknowledged that is in no folder any more.
		_ = c.s.latch(fmt.Errorf("the folder of the store at %s was removed or replaced while the store was open;"+
			" what it holds since is lost with it: put the folder back, or restore a backup", c.s.o.Path))
	}
	if err := c.s.failure(); err != nil { // Promise 1: Badger itself goes on after some of its failures.
		refuseAll(ops, err)
		return
	}
	c.applied(b)
	took := time.Since(start)
	for i, op := range ops {
		op.done(c.errs[i])
	}
	c.s.latency.Store(c.s.latency.Load()*7/8 + int64(took)/8)
	c.s.disk.Wrote(int64(b.bytes))
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
		f.webhook.wake()
	}
	if c.s.commitLog.Short() {
		runtime.Gosched() // who was told something does not wait for this
		if err := c.s.commitLog.Extend(); err != nil && !storefile.NoRoom(err) {
			_ = c.s.latch(fmt.Errorf("writing ahead in %s: %w", c.s.o.Path, err))
		}
	}
}

// write commits the batch's transaction, which is on the disk when it returns.
func (c *committer) write(b *batch) error {
	if err := b.txn.Commit(); err != nil || c.s.commitLog == nil {
		return err
	}
	return c.s.commitLog.Sync(b.logged()) // Promise 1: every commit is synced.
}

// fail refuses the operations of a batch that could not be written.
func (c *committer) fail(ops []operation, err error) {
	refuseAll(ops, c.s.latch(err))
}

// applied makes the committed batch visible to lanes and readers.
func (c *committer) applied(b *batch) {
	newest := newSnapshot(c.s.db, &c.s.readers)
	c.s.visible.Lock()
	defer c.s.visible.Unlock()
	c.s.show(newest)
	b.committed, b.outdated = b.stateOf, false
	shown := b.committed
	c.s.shown.Store(&shown)
	for seq := range b.retired {
		b.recent.forget(seq)
	}
	for seq, t := range b.touched {
		if t.ds.wait() {
			b.recent.remember(seq, t.ds)
		} else {
			b.recent.forget(seq)
		}
	}
	for h, c := range b.lanes {
		h.show(c.counts)
	}
	for _, l := range b.settled {
		l.webhook.settled(l.seq)
	}
	for h, c := range b.lanes {
		for _, t := range c.added {
			h.pushWaiting(t)
		}
	}
	for _, f := range b.fresh {
		f.webhook.pushFresh(f.event)
	}
	for _, l := range b.moving {
		l.webhook.moved(l.seq)
	}
	for _, effect := range b.effects {
		effect()
	}
}

// highWaterEvery bounds how often the high-water mark is synced.
const highWaterEvery = time.Second

// keepHighWater syncs the mark after commits that moved it, until the store
// stops, and once more then.
func (s *Store) keepHighWater() {
	sync := func() {
		if err := s.high.Sync(); err != nil {
			_ = s.latch(fmt.Errorf("syncing the high-water mark: %w", err))
		}
	}
	pause := time.NewTimer(highWaterEvery)
	defer pause.Stop()
	for {
		select {
		case <-s.moved:
			sync()
		case <-s.stop:
			s.committed.Wait()
			sync()
			_ = s.high.Close()
			return
		}
		pause.Reset(highWaterEvery)
		select {
		case <-pause.C:
		case <-s.stop:
		}
	}
}

// waitedOp is the part of the operations that somebody waits for.
type waitedOp struct {
	entries, bytes int
	do             func(b *batch) error
	result         chan error
}

func (o *waitedOp) cost() (entries, bytes int) { return o.entries, o.bytes }

func (o *waitedOp) lazy() bool { return false }

func (o *waitedOp) apply(b *batch) error { return o.do(b) }

func (o *waitedOp) done(err error) { o.result <- err }

// commit runs do in the next batch and waits until it is on disk.
func (s *Store) commit(ctx context.Context, entries, bytes int, do func(b *batch) error) error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end()
	op := &waitedOp{entries: entries, bytes: bytes, do: do, result: make(chan error, 1)}
	select {
	case s.ops <- op:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-op.result:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
