// Package badgerqueue keeps a queue in one folder, on Badger.
//
// It promises what package queue promises, with one writer: a single committer
// goroutine gathers what is asked of it while the last commit was on its way to
// the disk, and commits it as one transaction with one fsync. So the cost of
// durability is shared by everyone who waits for it, batches form without a
// timer, and every counter and cursor has one owner.
//
// Memory is bounded whatever the backlog: a webhook's lane holds a window of
// what comes next and reads on from a cursor. Nothing is scanned from the start
// of a prefix, where the tombstones of finished work lie.
//
// What Badger does not see, it looks for itself: free disk space before every
// commit (Badger writes through a memory map and would die by SIGBUS), a failed
// sync (after which nothing more is acknowledged), checksums in every record.
package badgerqueue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/badgercompat"
	"github.com/userhero/relay/queue/badgerqueue/storeclock"
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// Store is an open store; it implements queue.Queue.
type Store struct {
	queue.Alone
	o      Options
	bounds bounds
	log    *slog.Logger
	db     *badger.DB
	tags   storefile.Tags
	// outdated reports that the store was opened with an older format; former is
	// the newest event of then, or 0: see format.
	outdated bool
	former   uint64
	clock    *storeclock.Clock
	disk     *badgercompat.Disk
	high     *storefile.HighWaterWriter
	// commitLog is nil if Badger syncs its log itself, or nothing does.
	commitLog *badgercompat.CommitLog
	// compactions is nil if nobody watches them.
	compactions *badgercompat.Compactions

	// calls counts the methods under way, so that nothing touches a closed Badger.
	// Close adds shut to it: from then on it is negative, and no method begins.
	calls    atomic.Int64
	idle     chan struct{} // of capacity 1: no method is under way after Close
	closing  sync.Once
	closed   chan struct{} // closed when the store is; closeErr is set before
	closeErr error

	ops       chan operation
	pending   atomic.Int64  // bytes of entries that wait for their commit
	ending    chan struct{} // closed when Close begins: nothing waits for room or reads on
	stop      chan struct{}
	stopped   sync.WaitGroup
	committed sync.WaitGroup        // waits for the committer alone
	moved     chan struct{}         // of capacity 1: the committer has moved the high-water mark
	failed    atomic.Pointer[error] // the first error of a commit, for good

	// The locks are taken in this order, and any of them may be left out:
	//
	//	the lock of badgercompat.Compactions, which reads a snapshot
	//	visible
	//	webhooksMu
	//	webhookState.mu, of one webhook at a time
	//
	// None of the store's own is held while the disk works or a channel is waited for.

	// visible guards snapshot. The committer holds it while it makes a commit visible
	// and passes the commit's effects to the lanes. Whoever empties a lane's inbox
	// under visible has a snapshot that agrees with the inbox: the snapshot has
	// everything that was in it, and nothing that comes later.
	visible  sync.Mutex
	snapshot *snapshot

	notingBackup sync.Mutex // held while NoteBackup writes; no other lock is taken under it

	webhooksMu sync.RWMutex // guards webhooks
	webhooks   map[queue.WebhookID]*webhookState

	enqueueOps sync.Pool   // of *enqueueOp, for reuse: their channels are empty
	orphans    atomic.Bool // R keys of a deleted webhook may be left
	erases     atomic.Bool // there may be keys of erased feedback
	readers    snapshots
	flattening sync.Mutex   // held while every level is merged; taken alone
	retention  atomic.Int64 // nanoseconds
	redaction  atomic.Pointer[redaction]
	redacted   atomic.Bool           // there may be redacted events
	limited    chan struct{}         // of capacity 1: the limits have changed
	logged     []byte                // the sweep's: the key of the last activity it removed
	sweeping   atomic.Uint64         // events below it may be passed by the sweep under way
	shown      atomic.Pointer[state] // of the last commit
	lastBackup atomic.Int64          // unix milliseconds; 0 if there is none
	latency    atomic.Int64          // moving average of a commit, nanoseconds
}

var (
	_ queue.Queue    = (*Store)(nil)
	_ queue.Limited  = (*Store)(nil)
	_ queue.BackedUp = (*Store)(nil)
	_ queue.Eraser   = (*Store)(nil)
)

const (
	closeDeadline = 20 * time.Second
	// closeFull is how long closing may take on a full disk: a commit may wait for a
	// merge of tables, and the merge for room.
	closeFull = 2 * time.Second
	// closePoll is how often a store that waits for room to close looks for it. It is
	// shorter than the time for which Open waits for the lock of the folder.
	closePoll = 50 * time.Millisecond
)

// shut is less than any number of calls is high.
const shut = math.MinInt64 / 2

// begin says that a method uses the store; end must follow unless it returns an
// error. It never waits.
func (s *Store) begin() error {
	if s.calls.Add(1) < 0 {
		s.end()
		return queue.ErrClosed
	}
	return nil
}

func (s *Store) end() {
	if s.calls.Add(-1) == shut {
		select {
		case s.idle <- struct{}{}:
		default:
		}
	}
}

// going is nil until the context ends or the store is about to close.
func (s *Store) going(ctx context.Context) error {
	select {
	case <-s.ending:
		return queue.ErrClosed
	default:
		return ctx.Err()
	}
}

// webhook returns a webhook's state in memory, or nil for one that is unknown.
func (s *Store) webhook(id queue.WebhookID) *webhookState {
	s.webhooksMu.RLock()
	defer s.webhooksMu.RUnlock()
	return s.webhooks[id]
}

// wakeLanes makes every lane look at what is due.
func (s *Store) wakeLanes() {
	s.webhooksMu.RLock()
	defer s.webhooksMu.RUnlock()
	for _, h := range s.webhooks {
		h.wake()
	}
}

// waits reports whether any delivery has attempts to come. A delivery whose webhook
// was deleted has none. A delivery whose webhook is parked has, unless parkedEnded
// is set.
func (s *Store) waits(ds deliveries, parkedEnded bool) bool {
	for _, d := range ds {
		if !d.state.Waiting() {
			continue
		}
		if h := s.webhook(d.webhook); h != nil && !(parkedEnded && h.parked()) {
			return true
		}
	}
	return false
}

// Health implements queue.Queue.
func (s *Store) Health() error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end()
	if err := s.failure(); err != nil {
		return err
	}
	return s.disk.RoomToAccept()
}

// failure is the latched error of the first commit that failed.
func (s *Store) failure() error {
	if err := s.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// latch makes the store take nothing more: after a failed write nobody knows what
// the disk holds, so nothing is acknowledged until the store is opened again.
func (s *Store) latch(err error) error {
	err = fmt.Errorf("%w: %w; restart to read what the disk holds", queue.ErrFailed, badgercompat.WithoutStack(err))
	if !s.o.trusting && s.failed.CompareAndSwap(nil, &err) { // Promise 1: after a failed write nothing is acknowledged.
		s.log.Error("the store takes no more events", "error", err)
	}
	return err
}

// report logs a record that cannot be read, and returns the error with what was
// being done.
func (s *Store) report(doing string, err error) error {
	if errors.Is(err, errDamaged) {
		s.log.Error("a record of the store is damaged", "doing", doing, "error", err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// Stats implements queue.Reader.
func (s *Store) Stats(context.Context) queue.Stats {
	st := queue.Stats{
		AsOf:      time.Now(),
		Events:    s.shown.Load().events,
		Webhooks:  make(map[queue.WebhookID]queue.WebhookStats),
		DiskBytes: s.disk.Used(),
		DiskFree:  s.disk.Free(),
		MaxDisk:   s.disk.Max(),
		Commit:    time.Duration(s.latency.Load()),
	}
	s.webhooksMu.RLock()
	defer s.webhooksMu.RUnlock()
	for id, h := range s.webhooks {
		st.Webhooks[id] = h.stats(s.clock)
	}
	return st
}

// Close implements queue.Queue. Calls under way get an answer first. When the
// context ends before that, or before Badger has flushed its memtables, the rest
// goes on in the background; the process may end at any time, for what was
// acknowledged is in synced logs.
func (s *Store) Close(ctx context.Context) error {
	s.closing.Do(func() { go s.shut() })
	deadline := closeDeadline
	if !s.disk.RoomToClose() {
		deadline = closeFull
	}
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	select {
	case <-s.closed:
		return s.closeErr
	case <-ctx.Done():
		return fmt.Errorf("closing the store at %s: %w; what was acknowledged is safe and read again at the next start", s.o.Path, context.Cause(ctx))
	}
}

// shut ends every goroutine of the store, then Badger.
func (s *Store) shut() {
	defer close(s.closed)
	close(s.ending)
	if s.calls.Add(shut) != shut {
		<-s.idle
	}
	s.webhooksMu.RLock()
	for _, h := range s.webhooks {
		h.closeLane()
	}
	s.webhooksMu.RUnlock()
	close(s.stop)
	s.committed.Wait()
	s.stopped.Wait()
	if err := errors.Join(s.closeBadger(), s.closeFilesLeft()); err != nil {
		s.closeErr = fmt.Errorf("closing the store at %s: %w", s.o.Path, err)
	}
}

// closeFilesLeft closes the files to others that Badger made when it closed.
func (s *Store) closeFilesLeft() error {
	if !s.high.InPlace() {
		return nil
	}
	return storefile.CloseFiles(s.o.Path)
}

// leftOpen has the paths of this process's stores that are closed while their Badger
// stays open: see closeBadger.
var leftOpen sync.Map

// closeBadger has Badger flush its memtables to tables, for which it needs room:
// on a full disk the process would die. Then Badger stays open until there is room
// or the process ends. Nothing depends on the flush: the logs are synced, and the
// next start reads them.
func (s *Store) closeBadger() error {
	switch {
	case !s.high.InPlace():
		s.log.Error("the store's folder is gone: what it held is not flushed", "path", s.o.Path)
		return nil
	case s.disk.RoomToClose(): // Promise 1: closing on a full disk writes nothing.
		return s.db.Close()
	}
	s.log.Warn("the store is closed on a full disk: its logs stay as they are, and are read at the next start", "path", s.o.Path, "free", s.disk.Free())
	path := filepath.Clean(s.o.Path)
	leftOpen.Store(path, true)
	go func() {
		defer leftOpen.Delete(path)
		for !s.disk.RoomToClose() {
			<-time.After(closePoll)
			if !s.high.InPlace() {
				return
			}
		}
		if err := s.db.Close(); err != nil {
			s.log.Error("closing the store", "path", s.o.Path, "error", err)
		}
	}()
	return nil
}

// show makes a snapshot the newest; visible is held.
func (s *Store) show(newest *snapshot) {
	s.snapshot.release()
	s.snapshot = newest
}

// newestLocked is the newest snapshot, to be released; visible is held.
func (s *Store) newestLocked() *snapshot {
	s.snapshot.uses.Add(1)
	return s.snapshot
}

// newest is the newest snapshot, to be released.
func (s *Store) newest() *snapshot {
	s.visible.Lock()
	defer s.visible.Unlock()
	return s.newestLocked()
}

// reading returns the transaction of the newest snapshot, until release. It never
// waits for a commit.
func (s *Store) reading() (txn *badger.Txn, release func()) {
	newest := s.newest()
	return newest.txn, newest.release
}

// getEvent reads one event; its Body is a copy. queue.ErrNotFound where there
// is none.
func (s *Store) getEvent(txn *badger.Txn, seq uint64) (queue.Event, error) {
	e, err := getRecord(txn, eventKey(seq), func(key, rec []byte) (queue.Event, error) {
		return decodeEvent(key, bytes.Clone(rec), s.tags)
	})
	if errors.Is(err, badger.ErrKeyNotFound) {
		return e, queue.ErrNotFound
	}
	return e, err
}

// view runs fn with a snapshot of what is on the disk and has been told to lanes
// and counters. It never waits for a commit. fn must not change the transaction.
func (s *Store) view(ctx context.Context, fn func(txn *badger.Txn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end()
	snapshot := s.newest()
	defer snapshot.release()
	return fn(snapshot.txn)
}
