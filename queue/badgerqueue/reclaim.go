package badgerqueue

import (
	"cmp"
	"context"
	"runtime/debug"
	"slices"
	"time"

	"github.com/userhero/relay/queue/badgerqueue/storefile"
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
	// givenStep is how many bytes must have come back before that is written down.
	givenStep = 1 << 20
	// restLooks is after how many looks the size of the files is believed once the
	// tree was rewritten, and startLooks once the store was opened.
	restLooks  = 4
	startLooks = 2
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
// It also estimates how much of the files is live. Near max_disk finished events go
// early, and how many must go cannot be seen from the files: what was removed stays
// in them until tables are merged.
type reclaimer struct {
	s       *Store
	removed int64
	flushed bool
	last    time.Time     // of a rewrite
	took    time.Duration // the last rewrite
	// expected is what the files would hold if Badger had given nothing back since
	// they were last measured as small.
	expected int64
	seen     int64   // disk.ever, as counted in expected
	looks    [5]look // the last ones, newest first
	given    int64   // bytes that came back and are not yet taken from state.dead
	// After a rewrite, files that are not needed any more go within some looks. Until
	// then, and in the first looks of all, no event goes early.
	resting int
	dropped int64     // what was dead before the rewrite
	freed   time.Time // when memory was given back
	// What watch saw.
	written, at int64
	rate        float64 // bytes a second
}

// look is one look at the store.
type look struct {
	size    int64 // what the files hold
	written int64 // disk.ever
}

// look reads what the files hold. While tables are merged the old and the new ones
// are both on disk, and with a small max_disk that is the whole store twice: only
// those count that the tree has. At the moment when the tree exchanges them, or has
// the table of a log that is still there, it counts both: one look alone may see too
// much, and never too little.
func (r *reclaimer) look() look {
	l := look{size: r.s.disk.size.Load() - r.s.disk.tables.Load(), written: r.s.disk.ever.Load()}
	for _, level := range r.s.db.Levels() {
		l.size += level.Size
	}
	return l
}

// least is what the files hold by the look that saw the least while they rested.
func (r *reclaimer) least() int64 {
	now := r.looks[0]
	least := now.size
	for _, l := range r.looks[1:restLooks] {
		least = min(least, l.size+now.written-l.written)
	}
	return least
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

// measure looks how much of what was removed has come back.
func (r *reclaimer) measure(ctx context.Context) error {
	now := r.look()
	if r.expected == 0 {
		r.startFrom(now.size, now.written)
		r.resting = startLooks
	}
	r.expected += now.written - r.seen
	r.seen = now.written
	copy(r.looks[1:], r.looks[:])
	r.looks[0] = now
	if r.resting > 0 {
		if r.resting--; r.resting > 0 {
			return nil
		}
		r.startFrom(r.least(), now.written)
		return r.revive(ctx, r.dropped)
	}
	if now.size >= r.expected {
		smallest := slices.MinFunc(r.looks[:], func(a, b look) int { return cmp.Compare(a.size, b.size) })
		r.expected = max(r.expected, smallest.size) // larger for good
		return nil
	}
	r.given += r.expected - now.size
	r.expected = now.size
	if r.given < givenStep {
		return nil
	}
	given := r.given
	r.given = 0
	return r.revive(ctx, given)
}

// startFrom takes a size for what the files hold when so much had been written.
func (r *reclaimer) startFrom(size, written int64) {
	r.expected, r.seen, r.given = size, written, 0
	for i := range r.looks {
		r.looks[i] = look{size: size, written: written}
	}
}

// revive writes down that so many bytes of the files are not dead any more.
func (r *reclaimer) revive(ctx context.Context, n int64) error {
	if n == 0 {
		return nil
	}
	return r.s.commit(ctx, 2, 256, func(b *batch) error {
		b.stateOf.dead = max(b.stateOf.dead-n, 0)
		return nil
	})
}

// dead is how many bytes of the files hold nothing any more.
func (r *reclaimer) dead() int64 { return max(r.s.shown.Load().dead-r.given, 0) }

// excess is how many bytes of finished events must go for the store to be below
// the share of max_disk from which they go early.
func (r *reclaimer) excess() int64 {
	most := r.s.disk.max.Load()
	if most == 0 || r.resting > 0 {
		return 0
	}
	return max(r.expected-r.dead()-int64(nearMax*float64(most)), 0)
}

// urgent reports whether the store is close to max_disk by what was removed.
func (r *reclaimer) urgent() bool {
	m := r.s.disk.max.Load()
	return m > 0 && r.resting == 0 &&
		float64(r.s.disk.used()) >= (1+nearMax)/2*float64(m) &&
		r.dead() >= max(m/64, givenStep) &&
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
		err := r.flush(ctx)
		r.watch() // that was no business
		return err
	}
	r.removed, r.flushed = 0, false
	began, dead := time.Now(), r.dead()
	err := r.s.db.Flatten(1)
	r.last = time.Now()
	r.took = r.last.Sub(began)
	r.s.disk.measure()
	if err != nil || r.s.db.Levels()[0].NumTables > 0 { // a tree of one level is left as it is
		return err
	}
	r.resting, r.dropped, r.given = restLooks, dead, 0
	return nil
}

// flush makes Badger write its memtable to disk, by filling it: there is no
// other way to ask. It takes at most one memtable's worth of writes of one key,
// and ends when Badger has begun another log.
func (r *reclaimer) flush(ctx context.Context) error {
	filler := make([]byte, fillerSize)
	first, err := newestLog(r.s.o.Path)
	if err != nil {
		return err
	}
	for written := 0; written <= memTableSize+fillerSize; written += fillerSize {
		if !r.s.disk.roomToWrite() {
			return nil
		}
		err := r.s.commit(ctx, 2, fillerSize+256, func(b *batch) error {
			b.stateOf.dead += fillerSize
			return b.set(keyFiller, filler)
		})
		if err != nil {
			return err
		}
		r.s.disk.written.Add(-fillerSize) // it is gone with the rewrite
		if log, err := newestLog(r.s.o.Path); err != nil || log != first {
			return err
		}
	}
	return nil
}

// newestLog is the name of the log that Badger writes to.
func newestLog(path string) (string, error) {
	files, err := storefile.List(path)
	if err != nil || len(files.Logs) == 0 {
		return "", err
	}
	return files.Logs[len(files.Logs)-1], nil
}
