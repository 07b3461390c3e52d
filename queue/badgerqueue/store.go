// Package badgerqueue keeps a queue in one folder, on Badger.
//
// It promises what package queue promises, with one writer. A single committer goroutine
// collects the operations that arrive while the last commit is written, and commits them
// as one transaction with one fsync. So all waiting callers share the cost of the fsync,
// batches form without a timer, and every counter and cursor has one owner.
//
// Memory is bounded however many deliveries wait: a webhook's lane holds a window of the
// next deliveries and reads further ones from a cursor. Nothing is scanned from the start
// of a prefix, where the tombstones of finished deliveries are.
//
// The package checks what Badger does not check: free disk space before every commit
// (Badger writes through a memory map, and the process would die by SIGBUS on a full
// disk), failed syncs (after one, nothing more is acknowledged), and a checksum in every
// record.
package badgerqueue

import (
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
	"github.com/userhero/relay/queue/badgerqueue/layout"
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
	// outdated is set if the store on disk had an older format when it was opened. former
	// is the newest event that was stored with the older format, or 0: see format.
	outdated bool
	former   uint64
	clock    *storeclock.Clock
	disk     *badgercompat.Disk
	high     *storefile.HighWaterWriter
	// commitLog is nil if Badger syncs its log itself, or if nothing is synced.
	commitLog *badgercompat.CommitLog
	// compactions is nil if compactions are not watched.
	compactions *badgercompat.Compactions

	// calls counts the running methods, so that no method uses a closed Badger. Close adds
	// shut to it. After that it is negative, and no method begins.
	calls    atomic.Int64
	idle     chan struct{} // of capacity 1: after Close, no method is running
	closing  sync.Once
	closed   chan struct{} // closed when the store is closed; closeErr is set before that
	closeErr error

	ops       chan operation
	pending   atomic.Int64  // bytes of entries that wait for their commit
	ending    chan struct{} // closed when Close begins: then waiting for room and long reads end
	stop      chan struct{}
	stopped   sync.WaitGroup
	committed sync.WaitGroup        // waits for the committer alone
	moved     chan struct{}         // of capacity 1: the committer has moved the high-water mark
	failed    atomic.Pointer[error] // the first error of a commit; it stays
	// committing is when the commit in progress began; nil if there is none.
	committing atomic.Pointer[time.Time]

	// Locks are taken in this order. A goroutine may skip any of them:
	//
	//	the lock of badgercompat.Compactions, which reads a snapshot
	//	visible
	//	webhooksMu
	//	webhookState.mu, of one webhook at a time
	//
	// No goroutine holds one of the store's own locks while it uses the disk or waits for
	// a channel.

	// visible guards snapshot. The committer holds it while it makes a commit visible
	// and passes the commit's effects to the lanes. A lane that takes over its inbox under
	// visible gets a snapshot that agrees with the inbox: the snapshot has everything that
	// was in the inbox, and nothing that comes later.
	visible  sync.Mutex
	snapshot *snapshot

	notingBackup sync.Mutex // held while NoteBackup writes; no other lock is taken under it

	webhooksMu sync.RWMutex // guards webhooks
	webhooks   map[queue.WebhookID]*webhookState

	enqueueOps sync.Pool   // of *enqueueOp, for reuse: their channels are empty
	orphans    atomic.Bool // R keys of a deleted webhook may still exist
	erases     atomic.Bool // there may be keys of erased feedback
	readers    snapshots
	flattening sync.Mutex   // held while every level is merged; no other lock is held with it
	retention  atomic.Int64 // nanoseconds
	redaction  atomic.Pointer[redaction]
	redacted   atomic.Bool                  // there may be redacted events
	limited    chan struct{}                // of capacity 1: the limits have changed
	logged     []byte                       // owned by the sweep: the key of the last activity that it removed
	sweeping   atomic.Uint64                // the sweep's current step may pass events below this one; 0: no step runs
	shown      atomic.Pointer[layout.State] // of the last commit
	lastBackup atomic.Int64                 // unix milliseconds; 0 if there is none
	latency    atomic.Int64                 // moving average of a commit, nanoseconds
}

var (
	_ queue.Queue    = (*Store)(nil)
	_ queue.Limited  = (*Store)(nil)
	_ queue.BackedUp = (*Store)(nil)
	_ queue.Eraser   = (*Store)(nil)
	_ queue.Exported = (*Store)(nil)
)

const (
	closeDeadline = 20 * time.Second
	// closeFull is how long closing may take on a full disk, where a commit may wait for a
	// merge of tables, and the merge for room.
	closeFull = 2 * time.Second
	// closePoll is how often a store that waits for room to close reads the free space. It
	// is shorter than the time for which Open waits for the lock of the folder.
	closePoll = 50 * time.Millisecond
)

// shut makes calls negative, however many methods run.
const shut = math.MinInt64 / 2

// begin counts a method as running. The caller must call end, unless begin returns an
// error. begin never waits.
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

// going returns an error if the context has ended or the store is closing.
func (s *Store) going(ctx context.Context) error {
	select {
	case <-s.ending:
		return queue.ErrClosed
	default:
		return ctx.Err()
	}
}

// webhook returns a webhook's state in memory, or nil if the webhook does not exist.
func (s *Store) webhook(id queue.WebhookID) *webhookState {
	s.webhooksMu.RLock()
	defer s.webhooksMu.RUnlock()
	return s.webhooks[id]
}

// wakeLanes makes every lane check for due deliveries.
func (s *Store) wakeLanes() {
	s.webhooksMu.RLock()
	defer s.webhooksMu.RUnlock()
	for _, h := range s.webhooks {
		h.wake()
	}
}

// waits reports whether any of the deliveries still waits. A delivery whose webhook was
// deleted does not wait. If parkedEnded is set, a delivery whose webhook is parked does
// not wait either.
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
	return s.accepts()
}

// accepts returns nil while the store takes new events.
func (s *Store) accepts() error {
	if err := s.failure(); err != nil {
		return err
	}
	if err := s.disk.RoomToAccept(); err != nil { // Promise 1: no new event is accepted when the disk is nearly full; waiting deliveries continue.
		return err
	}
	if began := s.committing.Load(); began != nil && time.Since(*began) > s.bounds.slow {
		return fmt.Errorf("%w: the disk under %s does not answer: a commit has taken %s so far", queue.ErrUnavailable, s.o.Path, time.Since(*began).Round(time.Second))
	}
	return nil
}

// failure returns the latched error of the first commit that failed, or nil.
func (s *Store) failure() error {
	if err := s.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// latch makes the store refuse all further writes. After a failed write the content of the
// disk is unknown, so nothing is acknowledged until the store is opened again.
func (s *Store) latch(err error) error {
	err = fmt.Errorf("%w: %w; restart to read what the disk holds", queue.ErrFailed, badgercompat.WithoutStack(err))
	if !s.o.trusting && s.failed.CompareAndSwap(nil, &err) { // Promise 1: after a failed write nothing is acknowledged.
		s.log.Error("the store takes no more events", "error", err)
	}
	return err
}

// report logs a record that cannot be read, and returns the error wrapped with what the
// store was doing.
func (s *Store) report(doing string, err error) error {
	if errors.Is(err, layout.ErrDamaged) {
		s.log.Error("a record of the store is damaged", "doing", doing, "error", err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// Stats implements queue.Reader.
func (s *Store) Stats(context.Context) queue.Stats {
	st := queue.Stats{
		AsOf:      time.Now(),
		Events:    s.shown.Load().Events,
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

// Close implements queue.Queue. Running calls get an answer first. If the context ends
// before that, or before Badger has flushed its memtables, closing continues in the
// background. The process may end at any time, because acknowledged changes are in synced
// logs.
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

// shut stops every goroutine of the store and then closes Badger.
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

// closeFilesLeft takes other users' access away from the files that Badger made when it
// closed.
func (s *Store) closeFilesLeft() error {
	if !s.high.InPlace() {
		return nil
	}
	return storefile.CloseFiles(s.o.Path)
}

// leftOpen holds the paths of this process's closed stores whose Badger is still open: see
// closeBadger.
var leftOpen sync.Map

// closeBadger makes Badger flush its memtables to tables and close. On a full disk the
// flush would kill the process, so Badger then stays open until the disk has room or the
// process ends. No data depends on the flush: the logs are synced, and the next start
// reads them.
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

// show makes a snapshot the newest one. The caller holds visible.
func (s *Store) show(newest *snapshot) {
	s.snapshot.release()
	s.snapshot = newest
}

// newestLocked returns the newest snapshot, which the caller must release. The caller holds
// visible.
func (s *Store) newestLocked() *snapshot {
	s.snapshot.uses.Add(1)
	return s.snapshot
}

// newest returns the newest snapshot, which the caller must release.
func (s *Store) newest() *snapshot {
	s.visible.Lock()
	defer s.visible.Unlock()
	return s.newestLocked()
}

// reading returns the transaction of the newest snapshot. It is valid until release.
// reading never waits for a commit.
func (s *Store) reading() (txn *badger.Txn, release func()) {
	newest := s.newest()
	return newest.txn, newest.release
}

// getEvent reads one event. It returns queue.ErrNotFound if there is none.
func (s *Store) getEvent(txn *badger.Txn, seq uint64) (queue.Event, error) {
	e, _, err := s.readEvent(txn, seq, decodeWhole)
	return e, err
}

// getHeader reads one event without its Body. It returns queue.ErrNotFound if there is
// none.
func (s *Store) getHeader(txn *badger.Txn, seq uint64) (queue.Event, error) {
	e, _, err := s.readEvent(txn, seq, decodeEvent)
	return e, err
}

// readEvent reads one event with decodeEvent or decodeWhole, and returns its size too.
func (s *Store) readEvent(txn *badger.Txn, seq uint64, decode func(key, rec []byte, t storefile.Tags) (storedEvent, error)) (e queue.Event, size int, err error) {
	e, err = getRecord(txn, layout.EventKey(seq), func(key, rec []byte) (queue.Event, error) {
		stored, err := decode(key, rec, s.tags)
		size = stored.size()
		return stored.Event, err
	})
	if errors.Is(err, badger.ErrKeyNotFound) {
		err = queue.ErrNotFound
	}
	return e, size, err
}

// view runs fn with the newest snapshot: all commits that are on disk and that lanes and
// counters know. It never waits for a commit. fn must not write to the transaction.
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
