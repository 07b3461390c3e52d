package badgerqueue

import (
	"context"
	"runtime/debug"
	"time"
)

const (
	// reclaimFrom is how many removed bytes are worth rewriting the tree for.
	reclaimFrom = 32 << 20
	// reclaimEvery is the least time between two rewrites.
	reclaimEvery = 5 * time.Minute
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
)

// reclaimer gives the disk back what removed events leave. Badger removes by
// writing tombstones, and keeps both until it merges the one with the other,
// which it does only as new data comes in. So after a busy time the tree is
// rewritten once, in two steps: the tombstones in memory go to disk, and then
// every level is merged into the last.
type reclaimer struct {
	s       *Store
	removed int64
	flushed bool
	last    time.Time // of a rewrite
	freed   time.Time // when memory was given back
	// What watch saw.
	written, at int64
	rate        float64 // bytes a second
}

// watch reads how busy the store is.
func (r *reclaimer) watch() {
	written, at := r.s.disk.ever.Load(), r.s.clock.now().UnixNano()
	if r.at != 0 && at > r.at {
		r.rate = float64(written-r.written) / time.Duration(at-r.at).Seconds()
	}
	r.written, r.at = written, at
}

// freeMemory gives back what merging tables took, in a lull. Badger takes 16 MiB
// for each table it writes, keeps them for a while and then drops them; where
// little else is allocated, the next garbage collection is minutes away.
func (r *reclaimer) freeMemory() {
	if r.rate > reclaimRate || !r.s.compactions.endedWithin(memoryKept) || time.Since(r.freed) < memoryEvery {
		return
	}
	debug.FreeOSMemory()
	r.freed = time.Now()
}

// reclaim is told what a sweep has removed, and takes the next step where its
// time has come.
func (r *reclaimer) reclaim(ctx context.Context, removed int64) error {
	r.removed += removed
	switch {
	case r.removed < reclaimFrom,
		removed > reclaimFrom/8, // there is more to come
		r.rate > reclaimRate,
		!r.last.IsZero() && time.Since(r.last) < r.s.bounds.reclaim:
		return nil
	case !r.flushed:
		r.flushed = true
		err := r.flush(ctx)
		r.watch() // that was no business
		return err
	}
	r.removed, r.flushed = 0, false
	err := r.s.db.Flatten(1)
	r.last = time.Now()
	r.s.disk.measure()
	return err
}

// flush makes Badger write its memtable to disk, by filling it: there is no
// other way to ask. It takes one memtable's worth of writes of one key.
func (r *reclaimer) flush(ctx context.Context) error {
	filler := make([]byte, fillerSize)
	for written := 0; written <= memTableSize; written += fillerSize {
		if !r.s.disk.roomToWrite() {
			return nil
		}
		err := r.s.commit(ctx, 2, fillerSize+256, func(b *batch) error { return b.set(keyFiller, filler) })
		if err != nil {
			return err
		}
	}
	return nil
}
