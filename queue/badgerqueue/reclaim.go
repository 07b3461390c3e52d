package badgerqueue

import (
	"context"
	"fmt"
	"math"
	"runtime/debug"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/badgercompat"
	"github.com/userhero/relay/queue/badgerqueue/layout"
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

const (
	// nearMax is the share of max_disk above which finished events are removed early.
	nearMax = 0.9
	// reclaimFrom is the least number of removed bytes for which the tree is rewritten.
	reclaimFrom = 32 << 20
	// reclaimRate is the most bytes a second that the store may be writing when a rewrite
	// of the tree begins. Badger does no ordinary compaction during a rewrite, so a busier
	// store would have to wait for it.
	reclaimRate = 1 << 20
	// memoryKept is how long after a merge Badger may still release memory, and
	// memoryEvery is the least time between two garbage collections for it.
	memoryKept  = 45 * time.Second
	memoryEvery = 8 * time.Second
	// fillerSize is what one filling write adds to a memtable.
	fillerSize = 512 << 10
	// restLooks is how many times the size of the files is measured after a rewrite of the
	// tree. The least value counts, because Badger deletes the old files in that time.
	restLooks = 4
	// leastDead is the least number of removed bytes for which the tree is rewritten near
	// max_disk.
	leastDead = 1 << 20
	// urgentEvery is the least time between two rewrites near max_disk. The next rewrite
	// also waits urgentRest times as long as the last one took.
	urgentEvery = 5 * time.Second
	urgentRest  = 4
)

// reclaimer gives the space of removed events back to the disk. Badger removes a record
// by writing a tombstone, and keeps the record and the tombstone until it merges their
// tables. It merges tables only when new data comes in. So the reclaimer rewrites the tree
// once after a busy time, in two steps: it writes the tombstones in memory to the disk,
// and then it merges every level into the last.
//
// The reclaimer also computes how many bytes of finished events to remove near max_disk.
// The size of the files does not show that, because removed records stay in them until
// tables are merged. So the store counts the bytes that its events take (state.live).
type reclaimer struct {
	s       *Store
	removed int64 // since the last rewrite
	flushed bool
	last    time.Time     // the end of the last rewrite
	took    time.Duration // how long the last rewrite took
	// others is how many bytes other than events the files held after the last rewrite:
	// idempotency keys, the activity log, and Badger's own data.
	others int64
	// resting is how many more times the files are measured after a rewrite. least is the
	// least number of bytes other than events that they held so far.
	resting int
	least   int64
	freed   time.Time // when memory was last released
	// watch writes the fields below.
	written, at int64
	rate        float64 // bytes a second
}

// files returns how many bytes the store's files hold. It counts only the tables that are
// in the tree: during a merge the old and the new tables are both on disk, and with a small
// max_disk that would be the whole store twice. While the tree replaces tables, or has the
// table of a log that still exists, files counts both. So one result may be too high, but
// never too low.
func (r *reclaimer) files() int64 {
	n := r.s.disk.BesideTables()
	for _, level := range r.s.db.Levels() {
		n += level.Size
	}
	return n
}

// watch measures how many bytes a second the store writes.
func (r *reclaimer) watch() {
	written, at := r.s.disk.Written(), r.s.clock.Now().UnixNano()
	if r.at != 0 && at > r.at {
		r.rate = float64(written-r.written) / time.Duration(at-r.at).Seconds()
	}
	r.written, r.at = written, at
}

// freeMemory releases the memory that a merge of tables took, when the store is not busy.
// merged is when the merge ended. Badger takes 16 MiB for each table it writes, and drops
// them some time later. If the process allocates little else, the next garbage collection
// would come minutes later.
func (r *reclaimer) freeMemory(merged time.Time) {
	if r.rate > reclaimRate || time.Since(merged) >= memoryKept || time.Since(r.freed) < memoryEvery {
		return
	}
	debug.FreeOSMemory()
	r.freed = time.Now()
}

// measure reads, after a rewrite of the tree, how many bytes other than events the files
// hold.
func (r *reclaimer) measure(ctx context.Context) error {
	if r.resting == 0 {
		return nil
	}
	st := r.s.shown.Load()
	r.least = min(r.least, r.files()-st.Live)
	if r.resting--; r.resting > 0 {
		return nil
	}
	if st.Measured() {
		r.others = r.least
		return nil
	}
	return r.s.commit(ctx, 2, 256, func(b *batch) error {
		b.stateOf.Live = max(r.least, 1)
		return nil
	})
}

// excess returns how many bytes of finished events must be removed to bring the store
// below nearMax of max_disk.
func (r *reclaimer) excess() int64 {
	most, st := r.s.disk.Max(), r.s.shown.Load()
	if most == 0 || !st.Measured() {
		return 0
	}
	return max(st.Live+r.others-int64(nearMax*float64(most)), 0)
}

// urgent reports whether removed records bring the store close to max_disk.
func (r *reclaimer) urgent() bool {
	m, st := r.s.disk.Max(), r.s.shown.Load()
	return m > 0 && r.resting == 0 &&
		float64(r.s.disk.Used()) >= (1+nearMax)/2*float64(m) &&
		r.files()-st.Live-r.others >= max(m/64, leastDead) &&
		time.Since(r.last) >= max(urgentEvery, urgentRest*r.took)
}

// reclaim adds the bytes that a sweep has removed, and does the next step of a rewrite if
// it is time.
func (r *reclaimer) reclaim(ctx context.Context, removed int64) error {
	r.removed += removed
	switch {
	case r.urgent():
	case r.removed < reclaimFrom,
		removed > reclaimFrom/8, // the sweep will remove more
		r.rate > reclaimRate,
		!r.last.IsZero() && time.Since(r.last) < r.s.bounds.reclaim:
		return nil
	}
	if !r.flushed {
		r.flushed = true
		err := r.s.flush(ctx)
		r.watch() // so that the bytes of the flush do not count as a busy store
		return err
	}
	r.removed, r.flushed = 0, false
	began := time.Now()
	err := r.s.flatten()
	r.last = time.Now()
	r.took = r.last.Sub(began)
	r.s.disk.Measure()
	if err != nil || r.s.db.Levels()[0].NumTables > 0 { // flatten leaves a tree of one level as it is
		return err
	}
	r.resting, r.least = restLooks, math.MaxInt64
	return nil
}

// flush makes Badger write its memtable to disk by filling it, because Badger has no call
// for it. It writes one key again and again, at most about as many bytes as a memtable
// holds, until Badger begins another log.
func (s *Store) flush(ctx context.Context) error {
	filler := make([]byte, fillerSize)
	first, err := storefile.NewestLog(s.o.Path)
	if err != nil {
		return err
	}
	for written := 0; written <= badgercompat.MemTableSize+fillerSize; written += fillerSize {
		if !s.disk.RoomToWrite() {
			return nil
		}
		err := s.commit(ctx, 2, fillerSize+256, func(b *batch) error {
			return b.set(layout.KeyFiller, filler)
		})
		if err != nil {
			return err
		}
		s.disk.Rewritten(fillerSize) // the rewrite removes it
		if log, err := storefile.NewestLog(s.o.Path); err != nil || log != first {
			return err
		}
	}
	return nil
}

// flatten merges every level into the last, unless the tree has one level.
func (s *Store) flatten() error {
	s.flattening.Lock()
	defer s.flattening.Unlock()
	return s.db.Flatten(1)
}

// compactPoll is how often Compact checks whether it can continue.
const compactPoll = 20 * time.Millisecond

// Compact implements queue.Eraser. It writes the memtable to a table, and merges tables
// until every older table is in the last level. A merge drops removed records, but not
// those that a reader may still read. So Compact waits until all readers have ended that
// began before it.
func (s *Store) Compact(ctx context.Context) error {
	if err := s.compact(ctx); err != nil {
		return fmt.Errorf("giving back the space of what was removed: %w", err)
	}
	s.disk.Measure()
	return nil
}

func (s *Store) compact(ctx context.Context) error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end()
	now := s.newest()
	before := now.txn.ReadTs()
	now.release()
	for {
		if err := s.disk.RoomToAccept(); err != nil {
			return err
		}
		if err := s.flush(ctx); err != nil {
			return err
		}
		if err := s.until(ctx, func() bool { return s.readers.oldest() > before && s.oneLog() }); err != nil {
			return err
		}
		old := s.db.Tables()
		if err := s.flatten(); err != nil {
			return err
		}
		if !s.above(old) {
			return s.until(ctx, func() bool { return s.onlyTables() })
		}
	}
}

// until waits until is returns true. It returns an error if the store closes or fails, or
// the context ends.
func (s *Store) until(ctx context.Context, is func() bool) error {
	tick := time.NewTicker(compactPoll)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-s.ending:
			return queue.ErrClosed
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := s.failure(); err != nil {
			return err
		}
	}
	return nil
}

// oneLog reports whether every full memtable has been written to a table.
func (s *Store) oneLog() bool {
	files, err := storefile.List(s.o.Path)
	return err == nil && len(files.Logs) <= 1
}

// above reports whether any of the old tables is still in the tree above the last level.
func (s *Store) above(old []badger.TableInfo) bool {
	levels := make(map[uint64]int)
	last := 0
	for _, t := range s.db.Tables() {
		levels[t.ID] = t.Level
		last = max(last, t.Level)
	}
	return slices.ContainsFunc(old, func(t badger.TableInfo) bool {
		level, there := levels[t.ID]
		return there && (level < last || level == 0)
	})
}

// onlyTables reports whether every table in the folder is in the tree.
func (s *Store) onlyTables() bool {
	files, err := storefile.List(s.o.Path)
	if err != nil {
		return false
	}
	for _, t := range s.db.Tables() {
		delete(files.Tables, t.ID)
	}
	return len(files.Tables) == 0
}
