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
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

const (
	// nearMax is the share of max_disk from which finished events go early.
	nearMax = 0.9
	// reclaimFrom is how many removed bytes are worth rewriting the tree for.
	reclaimFrom = 32 << 20
	// reclaimRate is how many bytes a second may be written while the tree is
	// rewritten: its ordinary compaction rests meanwhile, and who writes more waits
	// for it in the end.
	reclaimRate = 1 << 20
	// memoryKept is how long after a merge Badger may still let go of memory, and
	// memoryEvery the least time between two collections of it.
	memoryKept  = 45 * time.Second
	memoryEvery = 8 * time.Second
	// fillerSize is what one filling write adds to a memtable.
	fillerSize = 512 << 10
	// restLooks is after how many looks the size of the files is believed once the
	// tree was rewritten: files that are not needed any more go meanwhile.
	restLooks = 4
	// leastDead is how many removed bytes are worth rewriting the tree for near
	// max_disk.
	leastDead = 1 << 20
	// urgentEvery is the least time between two rewrites near max_disk, and
	// urgentRest how many times as long as a rewrite took the next one waits.
	urgentEvery = 5 * time.Second
	urgentRest  = 4
)

// reclaimer gives the disk back what removed events leave. Badger removes by
// writing tombstones, and keeps both until it merges the one with the other,
// which it does only as new data comes in. So after a busy time the tree is
// rewritten once, in two steps: the tombstones in memory go to disk, and then
// every level is merged into the last.
//
// It also says how many bytes of finished events must go near max_disk. The files do
// not show that: what was removed stays in them until tables are merged. So the
// store counts what its events take (state.live).
type reclaimer struct {
	s       *Store
	removed int64 // since the last rewrite
	flushed bool
	last    time.Time     // of a rewrite
	took    time.Duration // the last rewrite
	// others is what the files held beside events after the last rewrite: the keys of
	// idempotency, the activity log, what Badger adds.
	others int64
	// After a rewrite the files are looked at resting more times; least is the least
	// that they held beside events.
	resting int
	least   int64
	freed   time.Time // when memory was given back
	// What watch saw.
	written, at int64
	rate        float64 // bytes a second
}

// files is what the store's files hold. While tables are merged the old and the new ones
// are both on disk, and with a small max_disk that is the whole store twice: only
// those count that the tree has. At the moment when the tree exchanges them, or has
// the table of a log that is still there, it counts both: one look alone may see too
// much, and never too little.
func (r *reclaimer) files() int64 {
	n := r.s.disk.BesideTables()
	for _, level := range r.s.db.Levels() {
		n += level.Size
	}
	return n
}

// watch reads how busy the store is.
func (r *reclaimer) watch() {
	written, at := r.s.disk.Written(), r.s.clock.Now().UnixNano()
	if r.at != 0 && at > r.at {
		r.rate = float64(written-r.written) / time.Duration(at-r.at).Seconds()
	}
	r.written, r.at = written, at
}

// freeMemory gives back what merging tables took, in a lull; merged is when that ended. Badger takes 16 MiB
// for each table it writes, keeps them for a while and then drops them; where
// little else is allocated, the next garbage collection is minutes away.
func (r *reclaimer) freeMemory(merged time.Time) {
	if r.rate > reclaimRate || time.Since(merged) >= memoryKept || time.Since(r.freed) < memoryEvery {
		return
	}
	debug.FreeOSMemory()
	r.freed = time.Now()
}

// measure looks what the files hold beside events once the tree was rewritten.
func (r *reclaimer) measure(ctx context.Context) error {
	if r.resting == 0 {
		return nil
	}
	st := r.s.shown.Load()
	r.least = min(r.least, r.files()-st.live)
	if r.resting--; r.resting > 0 {
		return nil
	}
	if st.measured() {
		r.others = r.least
		return nil
	}
	return r.s.commit(ctx, 2, 256, func(b *batch) error {
		b.stateOf.live = max(r.least, 1)
		return nil
	})
}

// excess is how many bytes of finished events must go for the store to be below
// the share of max_disk from which they go early.
func (r *reclaimer) excess() int64 {
	most, st := r.s.disk.Max(), r.s.shown.Load()
	if most == 0 || !st.measured() {
		return 0
	}
	return max(st.live+r.others-int64(nearMax*float64(most)), 0)
}

// urgent reports whether the store is close to max_disk by what was removed.
func (r *reclaimer) urgent() bool {
	m, st := r.s.disk.Max(), r.s.shown.Load()
	return m > 0 && r.resting == 0 &&
		float64(r.s.disk.Used()) >= (1+nearMax)/2*float64(m) &&
		r.files()-st.live-r.others >= max(m/64, leastDead) &&
		time.Since(r.last) >= max(urgentEvery, urgentRest*r.took)
}

// reclaim is told what a sweep has removed, and takes the next step where its
// time has come.
func (r *reclaimer) reclaim(ctx context.Context, removed int64) error {
	r.removed += removed
	switch {
	case r.urgent():
	case r.removed < reclaimFrom,
		removed > reclaimFrom/8, // there is more to come
		r.rate > reclaimRate,
		!r.last.IsZero() && time.Since(r.last) < r.s.bounds.reclaim:
		return nil
	}
	if !r.flushed {
		r.flushed = true
		err := r.s.flush(ctx)
		r.watch() // that was no business
		return err
	}
	r.removed, r.flushed = 0, false
	began := time.Now()
	err := r.s.flatten()
	r.last = time.Now()
	r.took = r.last.Sub(began)
	r.s.disk.Measure()
	if err != nil || r.s.db.Levels()[0].NumTables > 0 { // a tree of one level is left as it is
		return err
	}
	r.resting, r.least = restLooks, math.MaxInt64
	return nil
}

// flush makes Badger write its memtable to disk, by filling it: there is no
// other way to ask. It takes at most one memtable's worth of writes of one key,
// and ends when Badger has begun another log.
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
			return b.set(keyFiller, filler)
		})
		if err != nil {
			return err
		}
		s.disk.Rewritten(fillerSize) // it is gone with the rewrite
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

// compactPoll is how often Compact looks whether it can go on.
const compactPoll = 20 * time.Millisecond

// Compact implements queue.Eraser. It writes the memtable to a table, and merges tables
// until each that was there before is in the last level. A merge leaves out what was
// removed, but not what somebody still reads: Compact waits until those have ended who
// began to read before it.
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

// until waits until something is so, or the store closes.
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

// oneLog reports whether every memtable but the one that is written to is in a table.
func (s *Store) oneLog() bool {
	files, err := storefile.List(s.o.Path)
	return err == nil && len(files.Logs) <= 1
}

// above reports whether any of these tables is in the tree, above the last level.
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

// onlyTables reports whether the folder has no tables but those of the tree.
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
