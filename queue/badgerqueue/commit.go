package badgerqueue

import (
	"errors"
	"fmt"
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
	// stallPoll is how often free space is looked at while nothing may be
	// written.
	stallPoll = 200 * time.Millisecond
	// remembered bounds the delivery entries the committer keeps of recent
	// events, so that settling them reads nothing.
	remembered = 1 << 16
	// adviseEvery is after how many written bytes memtables may have changed.
	adviseEvery = memTableSize / 4
)

// operation is one thing to commit.
type operation interface {
	// cost is a bound on the entries and bytes it writes.
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
	s     *Store
	state state
	// recent are the deliveries of recently touched events, and order their
	// age; entries counts their deliveries.
	recent  map[uint64]deliveries
	order   []uint64
	entries int

	maxEntries, maxBytes int // of one Badger transaction
	advise               int64
	carry                operation // taken from the queue, did not fit the last batch
	timer                *time.Timer
}

func (c *committer) init(s *Store) {
	c.s = s
	c.state = *s.shown.Load()
	c.recent = make(map[uint64]deliveries)
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
		if err := c.s.failure(); err != nil {
			finish(batch, err)
			continue
		}
		if !c.s.disk.roomToWrite() {
			batch = c.stall(batch)
		}
		c.commit(batch)
		clear(batch)
	}
}

// keepTime writes how far the time of day was set since the last commit.
func (c *committer) keepTime() {
	if c.s.clock.movedFrom(c.state.shift) && c.s.failure() == nil && c.s.disk.roomToWrite() {
		c.commit([]operation{&waitedOp{do: func(*batch) error { return nil }, result: make(chan error, 1)}})
	}
}

// gather waits for an operation and takes what else waits, as much as fits one
// transaction. When all of it is lazy it waits a moment for company. None means
// that the store stops.
func (c *committer) gather(batch []operation) []operation {
	var entries, bytes int
	urgent := false
	add := func(op operation) bool {
		n, size := op.cost()
		if len(batch) > 0 && (entries+n > c.maxEntries || bytes+size > c.maxBytes) {
			c.carry = op
			return false
		}
		entries, bytes = entries+n, bytes+size
		batch = append(batch, op)
		urgent = urgent || !op.lazy()
		return true
	}
	if op := c.carry; op != nil {
		c.carry = nil
		add(op)
	} else {
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
	}
	waited := false
	for {
		select {
		case op := <-c.s.ops:
			if !add(op) {
				return batch
			}
			continue
		default:
		}
		if urgent || waited {
			return batch
		}
		c.timer.Reset(lazyDelay)
		for !urgent && !waited {
			select {
			case op := <-c.s.ops:
				if !add(op) {
					return batch
				}
			case <-c.timer.C:
				waited = true
			case <-c.s.stop:
				waited = true
			}
		}
		c.timer.Stop()
	}
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
	// More may have been held than fits one transaction.
	for len(held) > maxQueued/8 {
		c.commit(held[:maxQueued/8])
		held = held[maxQueued/8:]
	}
	return held
}

func finish(ops []operation, err error) {
	for _, op := range ops {
		op.done(err)
	}
}

// batch is one transaction being put together.
type batch struct {
	c       *committer
	s       *Store
	txn     *badger.Txn
	now     time.Time
	touched map[uint64]deliveries // D records to write
	hooks   map[*hook][]ticket    // webhooks whose counters moved, with the R keys added
	fresh   []freshEvent          // to tell lanes of
	settled []settledLease        // likewise
	effects []func()              // others, after the commit
	bytes   int64                 // written
	retired map[uint64]deliveries // D records removed
	stateOf state                 // the committer's, as this batch leaves it
}

// moved has a webhook's counters written with the batch.
func (b *batch) moved(h *hook) {
	if _, ok := b.hooks[h]; !ok {
		b.hooks[h] = nil
	}
}

type freshEvent struct {
	event *queue.Event
	hook  *hook
}

type settledLease struct {
	hook *hook
	seq  uint64
}

// commit applies the operations, commits them with one fsync, tells the lanes
// and then everyone who waits.
func (c *committer) commit(ops []operation) {
	if len(ops) == 0 {
		return
	}
	b := &batch{
		c: c, s: c.s, now: c.s.clock.now(), stateOf: c.state,
		txn:     c.s.db.NewTransaction(true),
		touched: make(map[uint64]deliveries),
		hooks:   make(map[*hook][]ticket),
		retired: make(map[uint64]deliveries),
	}
	defer b.txn.Discard()
	errs := make([]error, len(ops))
	for i, op := range ops {
		errs[i] = op.apply(b)
		if errors.Is(errs[i], badger.ErrTxnTooBig) {
			// A cost that was wrong: the transaction cannot be trusted to hold
			// what was applied, so nothing of it is committed.
			c.fail(ops, fmt.Errorf("a batch of %d operations outgrew its transaction: %w", len(ops), errs[i]))
			return
		}
	}
	if err := b.finish(); err != nil {
		c.fail(ops, fmt.Errorf("writing a batch: %w", err))
		return
	}
	start := time.Now()
	c.s.visible.Lock()
	if err := b.txn.Commit(); err != nil { // Promise 1: the answer comes after the commit.
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
	select {
	case c.s.moved <- struct{}{}:
	default:
	}
	c.applied(b)
	c.s.visible.Unlock()
	took := time.Since(start)
	for i, op := range ops {
		op.done(errs[i])
	}
	c.s.latency.Store(c.s.latency.Load()*7/8 + int64(took)/8)
	c.s.disk.wrote(b.bytes)
	if c.s.o.OnCommit != nil {
		c.s.o.OnCommit(took, len(ops))
	}
	if c.advise += b.bytes; c.advise >= adviseEvery {
		c.advise = 0
		adviseMemtables(c.s.o.Path)
	}
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

// finish writes what the operations of a batch share: each touched D record
// once, counters, cursors, the time.
func (b *batch) finish() error {
	for seq, ds := range b.touched {
		key := deliveriesKey(seq)
		if err := b.set(key, ds.encode(key)); err != nil {
			return err
		}
	}
	for h, added := range b.hooks {
		key := laneKey(h.id)
		if err := b.set(key, encodeLane(key, h.counts, h.storedMarks(added))); err != nil {
			return err
		}
	}
	// Every transaction writes the state, moved or not: its newest version tells
	// inspect how far the tables go.
	b.stateOf.at, b.stateOf.shift = b.now.UnixNano(), b.s.clock.readShift()
	return b.set(keyState, b.stateOf.encode())
}

// applied makes the committed batch visible to lanes and readers.
func (c *committer) applied(b *batch) {
	c.state = b.stateOf
	shown := c.state
	c.s.shown.Store(&shown)
	for seq := range b.retired {
		c.forget(seq)
	}
	for seq, ds := range b.touched {
		c.remember(seq, ds)
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

func (c *committer) remember(seq uint64, ds deliveries) {
	if _, ok := c.recent[seq]; !ok {
		c.order = append(c.order, seq)
		c.entries += len(ds) + 1
	}
	c.recent[seq] = ds
	for c.entries > remembered && len(c.order) > 0 {
		oldest := c.order[0]
		c.order = c.order[1:]
		if old, ok := c.recent[oldest]; ok {
			c.entries -= len(old) + 1
			delete(c.recent, oldest)
		}
	}
}

func (c *committer) forget(seq uint64) {
	if ds, ok := c.recent[seq]; ok {
		c.entries -= len(ds) + 1
		delete(c.recent, seq)
	}
}

func (b *batch) set(key, value []byte) error {
	b.bytes += int64(len(key) + len(value) + 24)
	return b.txn.Set(key, value)
}

func (b *batch) delete(key []byte) error {
	b.bytes += int64(len(key) + 24)
	return b.txn.Delete(key)
}

// deliveriesOf returns an event's deliveries as this batch leaves them. What is
// changed must be passed to touch.
func (b *batch) deliveriesOf(seq uint64) (deliveries, error) {
	if ds, ok := b.touched[seq]; ok {
		return ds, nil
	}
	if _, ok := b.retired[seq]; ok {
		return nil, nil
	}
	if ds, ok := b.c.recent[seq]; ok {
		return ds, nil
	}
	return getDeliveries(b.txn, seq)
}

func (b *batch) touch(seq uint64, ds deliveries) { b.touched[seq] = ds }

// move changes a delivery's state and keeps its R key and the counters right.
func (b *batch) move(h *hook, seq uint64, d *delivery, to delivery) error {
	if at, ok := d.waitsAt(seq); ok {
		if err := b.delete(waitingKey(h.id, d.rung, at)); err != nil {
			return err
		}
	}
	h.count(d.state, -1)
	h.count(to.state, 1)
	added := b.hooks[h]
	if at, ok := to.waitsAt(seq); ok {
		if err := b.set(waitingKey(h.id, to.rung, at), nil); err != nil { // Promise 1: a retry is found again after a restart: its key is written with its state.
			return err
		}
		added = append(added, ticket{seq: seq, rung: to.rung, due: at.due})
	}
	b.hooks[h] = added
	*d = to
	return nil
}

// count moves one of the committer's counters.
func (h *hook) count(s queue.State, n int64) {
	switch s {
	case queue.Pending:
		h.counts.Pending += n
	case queue.Retrying:
		h.counts.Retrying += n
	case queue.Delivered:
		h.counts.Delivered += n
	case queue.Failed:
		h.counts.Failed += n
	}
}

// hook returns the state of a webhook that lives as this batch leaves it.
func (b *batch) hook(id queue.WebhookID) *hook {
	if h := b.s.hook(id); h != nil && !h.deleted {
		return h
	}
	return nil
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
