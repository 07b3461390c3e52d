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
	// maxQueued is the most operations that may wait for the committer, and maxPending
	// the most bytes of new events among them. Above either, Enqueue returns
	// queue.ErrFull.
	maxQueued  = 8192
	maxPending = 64 << 20
	// lazyDelay is how long a commit waits for more operations if no caller waits for it
	// (only settlements). A crash in that time causes duplicates, but no losses.
	lazyDelay = 10 * time.Millisecond
	// mostYields is how many times at most a commit lets other goroutines run first.
	mostYields = 3
	// stallPoll is how often free space is read while the disk is full.
	stallPoll = 200 * time.Millisecond
)

// committer is the store's only writer. Its fields belong to its goroutine.
type committer struct {
	s     *Store
	batch batch
	errs  []error // results of the batch's operations
	timer *time.Timer
}

func newCommitter(s *Store) *committer {
	c := &committer{s: s, batch: batch{s: s, committed: *s.shown.Load(), outdated: s.outdated}, timer: time.NewTimer(time.Hour)}
	c.batch.maxEntries, c.batch.maxBytes = transactionRoom(s.db)
	for _, h := range s.webhooks {
		if h.lags {
			c.batch.lagging.webhooks = append(c.batch.lagging.webhooks, h)
		}
	}
	c.timer.Stop()
	return c
}

// run commits operations until the store stops and no operation waits.
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

// keepTime writes the shift of the time of day if it changed since the last commit.
func (c *committer) keepTime() {
	if c.s.clock.MovedFrom(c.batch.committed.Shift) && c.s.failure() == nil && c.s.disk.RoomToWrite() {
		c.commit([]operation{&waitedOp{do: func(*batch) error { return nil }, result: make(chan error, 1)}})
	}
}

// gather waits for an operation and takes all others that wait. Before it returns it lets
// other goroutines run, because they may be about to add operations. That saves a quarter
// of the commits if the cores are busy, and costs no time if they are not. If all
// operations are lazy, gather waits up to lazyDelay for more. It returns none when the
// store stops.
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

// stall waits until the disk has room. It holds settlements, and refuses operations that a
// caller waits for. It returns the operations to commit, or none when the store closes.
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
			// Deliveries whose settlement is not written are attempted again at the next start.
			refuseAll(held, c.s.disk.Full())
			return nil
		}
	}
	c.s.log.Info("writing again", "path", c.s.o.Path, "free", c.s.disk.Free())
	return held
}

// refuse answers queue.ErrFull to the operations that a caller waits for, unless the disk
// has room again. It appends all others to held.
func (c *committer) refuse(held, ops []operation) []operation {
	for _, op := range ops {
		if !op.lazy() && !c.s.disk.RoomToWrite() { // Promise 1: a refused operation gets an error, and a held one is committed.
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

// commit commits the operations: as many as fit in one transaction, with one fsync for
// each transaction. Before each transaction it checks that the disk has room.
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

// commitSome commits as many of the first operations as fit in one transaction, and
// answers them. It returns how many it answered: 0 if the disk has no room.
func (c *committer) commitSome(ops []operation) int {
	began := time.Now()
	c.s.committing.Store(&began)
	defer func() {
		c.s.committing.Store(nil)
		if took := time.Since(began); took > c.s.bounds.slow {
			c.s.log.Warn("a commit was slow: is the disk busy or failing?", "path", c.s.o.Path, "took", took, "operations", len(ops))
		}
	}()
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
		if n == 0 { // the first operation alone does not fit
			c.refuseFirst(ops[0], err)
			return 1
		}
		ops = ops[:n]
	}
}

// reserved reserves room in the log on the disk for the batch. It returns false if the disk
// has no room. After any other error it latches the store, and the commit returns that
// error.
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

// fill puts operations into a new batch and returns how many it took. With an error it
// returns how many operations to try in the next batch instead, or 0 if the first alone is
// too large.
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
			return i, err // the operation has written a part of its records
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

// commitBatch writes the batch, passes its effects to the lanes and then answers the
// callers.
func (c *committer) commitBatch(b *batch, ops []operation) {
	defer b.txn.Discard()
	start := time.Now()
	if err := c.write(b); err != nil { // Promise 1: the answer comes after the commit.
		c.fail(ops, fmt.Errorf("committing to %s: %w", c.s.o.Path, err))
		return
	}
	// The store has one writer, so a transaction's number is one above what it read.
	if err := c.s.high.Set(storefile.Mark{Seq: b.stateOf.Seq, Commit: b.txn.ReadTs() + 1}); err != nil {
		_ = c.s.latch(fmt.Errorf("writing the high-water mark: %w", err))
	}
	if !c.s.high.InPlace() { // Promise 1: nothing is acknowledged after the store's folder was removed.
		_ = c.s.latch(fmt.Errorf("the folder of the store at %s was removed or replaced while the store was open;"+
			" what it holds since is lost with it: put the folder back, or restore a backup", c.s.o.Path))
	}
	if err := c.s.failure(); err != nil { // Promise 1: Badger continues after some of its failures, but the store does not.
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
	// Wake the lanes last: the goroutine that is woken last runs first when this one
	// waits, and another core needs 50 µs to wake up. So deliveries go before answers.
	for _, f := range b.fresh {
		f.webhook.wake()
	}
	if c.s.commitLog.Short() {
		runtime.Gosched() // so that the woken goroutines do not wait for the extension
		if err := c.s.commitLog.Extend(); err != nil && !storefile.NoRoom(err) {
			_ = c.s.latch(fmt.Errorf("writing ahead in %s: %w", c.s.o.Path, err))
		}
	}
}

// write commits the batch's transaction and returns when it is on the disk.
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
	b.lagged()
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

// highWaterEvery is the least time between two syncs of the high-water mark.
const highWaterEvery = time.Second

// keepHighWater syncs the mark after commits that moved it. It syncs once more when the
// store stops.
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

// waitedOp is an operation whose caller waits for the result.
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
