package badgercompat

import (
	"bytes"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// Compactions watches Badger merge its tables, because of two defects. A table
// that cannot be written is forgotten: the compaction goes on without it and
// removes the tables it was made of (subcompact in levels.go). And a table is
// written through a memory map, which ends the process on a full disk.
//
//	a table is about to be written ── wait for room; hold the tables of now
//	the compaction is done ────────── if every announced table is there, let the
//	                                  others go; else keep them, and the store
//	                                  takes no more
//
// It learns of both from Badger's log, which announces each table, with its number
// of keys, in the goroutine that will write it. Compactions are let through one by
// one, so a table that appears meanwhile is this compaction's, or a memtable's.
//
// Tables are held by an iterator that is never moved: it has a reference to every
// table, and Badger removes the file of a table with its last reference. The
// iterator holds the memtables too, with their logs, so it is given up while a
// compaction waits for room. Badger opens no iterator once it closes; what merges
// then is held by one that was opened when closing began.
type Compactions struct {
	disk *Disk              // nil: no room is asked for
	lost func(error) error  // is given what could not be written
	note func(string) error // keeps it for the next start

	mu      sync.Mutex
	turn    *sync.Cond // compactor has changed, or db
	db      *badger.DB // nil until Badger is open
	read    func() (txn *badger.Txn, release func())
	running bool
	id      int             // of the compactor that has its turn
	release func()          // lets go of what is held; nil: nothing is
	closing func()          // likewise, of what is held until Badger is closed
	old     map[uint64]bool // tables that were there before
	due     map[uint32]int  // tables to be written, by their number of keys
	begun   []time.Time     // when those of the last moments were
	missed  bool            // a table was missed: what was held then stays held

	deep  atomic.Int64 // deepMerge, as of the last compaction
	ended atomic.Int64 // when that was, unix nanoseconds
}

// What Badger says of its compactions.
const (
	saysTable  = "[%d] LOG Compact. Added %d keys. Skipped %d keys. Iteration took: %v"
	saysDone   = "[Compactor: %d] Compaction for level: %d DONE"
	saysFailed = "[Compactor: %d] LOG Compact FAILED with error: %+v: %+v"
	// saysClosing comes before Badger begins to close, saysClosed when nothing is
	// merged any more and the folder is still locked.
	saysClosing = "Closing database"
	saysClosed  = "Waiting for closer"
)

// KnownBadger is the version whose messages are understood.
const KnownBadger = "v4.9.6"

// OtherBadger is the version of Badger that this program was built with, where it
// is not the one of go.mod: another module may have asked for a newer one.
var OtherBadger = func() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if d.Path == "github.com/dgraph-io/badger/v4" && d.Version != KnownBadger {
				return d.Version
			}
		}
	}
	return ""
}()

// writeTime is how long a table, once begun, may not show in the free space yet: it
// is copied into the memory map in some 20 ms.
const writeTime = 250 * time.Millisecond

// roomPoll is how often a compaction that waits looks for room.
const roomPoll = 50 * time.Millisecond

// NewCompactions returns nil, which watches nothing, if Badger is not the version
// whose log is understood. lost is called with what could not be written; note must
// keep it for the next start.
func NewCompactions(d *Disk, lost func(error) error, note func(string) error) *Compactions {
	if OtherBadger != "" {
		return nil
	}
	c := &Compactions{disk: d, lost: lost, note: note, due: make(map[uint32]int)}
	c.turn = sync.NewCond(&c.mu)
	return c
}

// Watch must be called once Badger is open: compactions wait until then. read
// returns a read-only transaction that stays open until release. It must not wait
// for a commit, because a commit may wait for a compaction; it is called until
// Badger is closed.
func (c *Compactions) Watch(db *badger.DB, read func() (txn *badger.Txn, release func())) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.db, c.read = db, read
	c.turn.Broadcast()
	c.deep.Store(deepMerge(db.Tables()))
	if c.disk != nil {
		c.disk.merge = func() int64 { return max(flatMerge(db.Levels()), c.deep.Load()) }
	}
}

// Logged must be called with every message that Badger logs.
func (c *Compactions) Logged(format string, args []any) {
	if c == nil {
		return
	}
	switch format {
	case saysTable:
		id, keys := args[0].(int), args[1].(uint64)
		c.begin(id, uint32(keys))
	case saysDone:
		c.end(args[0].(int), true)
	case saysFailed:
		c.end(args[0].(int), false)
	case saysClosing:
		c.beginClosing()
	case saysClosed:
		c.endClosing()
	}
}

// begin waits for the compactor's turn and for room, before it writes a table of
// so many keys.
func (c *Compactions) begin(id int, keys uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.db == nil || c.running && c.id != id {
		c.turn.Wait()
	}
	c.running, c.id = true, id
	if keys == 0 {
		return
	}
	c.due[keys]++
	for !c.roomToBegin() { // Promise 1: a compaction begins no table for which there is no room.
		c.letGo()
		c.mu.Unlock()
		<-time.After(roomPoll)
		c.mu.Lock()
	}
	c.begun = append(c.begun, time.Now())
	if c.release == nil && c.closing == nil {
		c.release = c.hold()
	}
}

// hold keeps the files of the tables of now until release.
func (c *Compactions) hold() (release func()) {
	txn, done := c.read()
	it := txn.NewIterator(badger.IteratorOptions{})
	c.old = make(map[uint64]bool)
	for _, t := range c.db.Tables() {
		c.old[t.ID] = true
	}
	return func() {
		it.Close()
		done()
	}
}

func (c *Compactions) letGo() {
	if c.release != nil {
		c.release()
		c.release = nil
	}
}

// roomToBegin reports whether another table fits beside those that are being
// written and a memtable that becomes one.
func (c *Compactions) roomToBegin() bool {
	if c.disk == nil {
		return true
	}
	c.begun = slices.DeleteFunc(c.begun, func(at time.Time) bool { return time.Since(at) > writeTime })
	return c.disk.roomToCompact(int64(len(c.begun)+1) * TableSize)
}

// end lets go what was held, if everything is there that was to be written.
func (c *Compactions) end(id int, done bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.running || c.id != id {
		return
	}
	tables := c.db.Tables()
	missing := uint32(0)
	if done {
		missing = c.missing(tables)
	}
	c.running = false
	clear(c.due)
	c.deep.Store(deepMerge(tables))
	c.ended.Store(time.Now().UnixNano())
	c.turn.Broadcast()
	if missing > 0 { // Promise 1: what a compaction could not write is not removed.
		c.missed, c.release = true, nil // for good
		what := fmt.Sprintf("a table of %d records could not be written, and Badger goes on without it;"+
			" the tables it was to be made of are still here, and Badger would remove them at the next start", missing)
		err := errors.New("compacting: " + what)
		if unnoted := c.note(what); unnoted != nil {
			err = fmt.Errorf("%w; %w", err, unnoted)
		}
		_ = c.lost(err)
	}
	c.letGo()
}

// beginClosing holds all that is merged from now on.
func (c *Compactions) beginClosing() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.db != nil && c.closing == nil {
		c.closing = c.hold()
	}
}

func (c *Compactions) endClosing() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing != nil && !c.missed {
		c.closing()
	}
}

// Idle reports whether no compaction has its turn, and when the last table that is
// still remembered was begun.
func (c *Compactions) Idle() (idle bool, begun time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.begun); n > 0 {
		begun = c.begun[n-1]
	}
	return !c.running, begun
}

// Ended is when the last compaction ended; 1970 if none has.
func (c *Compactions) Ended() time.Time {
	if c == nil {
		return time.Unix(0, 0)
	}
	return time.Unix(0, c.ended.Load())
}

// missing is how many records a table has that was to be written and is not
// there, or 0.
func (c *Compactions) missing(tables []badger.TableInfo) uint32 {
	for _, t := range tables {
		if !c.old[t.ID] && c.due[t.KeyCount] > 0 {
			c.due[t.KeyCount]--
		}
	}
	for keys, n := range c.due {
		if n > 0 {
			return keys
		}
	}
	return 0
}

// flatMerge is the most that a merge of level 0 writes before it removes anything:
// all of it and what is still in memtables go into the first of the other levels
// that has tables. 0: it is not about to happen.
func flatMerge(levels []badger.LevelInfo) int64 {
	if levels[0].NumTables+NumMemtables < LevelZeroTables {
		return 0
	}
	bytes := levels[0].Size + NumMemtables*MemTableSize
	for i, into := range levels[1:] {
		if into.NumTables > 0 && i+1 == len(levels)-1 {
			return bytes + min(into.Size, BaseLevelSize) // if it were more, a level above would be taken
		}
		if into.NumTables > 0 {
			return bytes + into.Size
		}
	}
	return bytes
}

// lastLevel is the last of Badger's seven levels.
const lastLevel = 6

// deepMerge is the most that a merge of another level writes before it removes
// anything: one table and all that it overlaps in the next.
func deepMerge(tables []badger.TableInfo) (most int64) {
	levels := make(map[int][]span)
	for _, t := range tables {
		levels[t.Level] = append(levels[t.Level], span{t.Left, t.Right, int64(t.UncompressedSize) + int64(t.IndexSz)})
	}
	for level, above := range levels {
		if level == 0 || level == lastLevel {
			continue
		}
		slices.SortFunc(above, func(a, b span) int { return bytes.Compare(a.from, b.from) })
		below := levels[level+1]
		slices.SortFunc(below, func(a, b span) int { return bytes.Compare(a.from, b.from) })
		most = max(most, heaviest(above, below))
	}
	return most
}

// span is the keys of a table.
type span struct {
	from, to []byte
	size     int64
}

// heaviest is the most bytes of one of the tables above with those below that it
// overlaps; both are in order.
func heaviest(above, below []span) (most int64) {
	first := 0 // of those that the next one above may overlap
	for _, a := range above {
		for first < len(below) && bytes.Compare(below[first].to, a.from) < 0 {
			first++
		}
		sum := a.size
		for _, b := range below[first:] {
			if bytes.Compare(b.from, a.to) > 0 {
				break
			}
			sum += b.size
		}
		most = max(most, sum)
	}
	return most
}
