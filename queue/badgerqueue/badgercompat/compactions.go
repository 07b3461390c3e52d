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

// Compactions watches Badger merge its tables, because of two defects of Badger. If a table
// cannot be written, the compaction continues without it and still removes the tables that
// it was made from (subcompact in levels.go). And a table is written through a memory map,
// which ends the process on a full disk.
//
//	a table is about to be written ── wait for room; hold the tables of now
//	the compaction is done ────────── if every announced table is there, let the
//	                                  others go; else keep them, and the store
//	                                  takes no more
//
// Badger's log reports both moments. It announces each table, with its number of keys, in
// the goroutine that will write the table. Only one compaction runs at a time, so a table
// that appears during it belongs to it or to a memtable.
//
// An iterator that is never moved holds the tables: it has a reference to every table, and
// Badger removes the file of a table with its last reference. The iterator also holds the
// memtables and their logs, so Compactions closes it while a compaction waits for room.
// Badger opens no iterator after it begins to close. So an iterator that is opened at that
// moment holds the tables that are merged later.
type Compactions struct {
	disk *Disk              // nil: do not check for room
	lost func(error) error  // called with the error if a table could not be written
	note func(string) error // stores the error's text for the next start

	mu      sync.Mutex
	turn    *sync.Cond // signals that running, id or db has changed
	db      *badger.DB // nil until Badger is open
	read    func() (txn *badger.Txn, release func())
	running bool
	id      int             // number of the compactor that is running
	release func()          // releases the held tables; nil if none are held
	closing func()          // releases the tables that are held until Badger is closed; nil if none are
	old     map[uint64]bool // tables that existed when they were held
	due     map[uint32]int  // announced tables, by their number of keys
	begun   []time.Time     // when the tables of the last moments were begun
	missed  bool            // a table was not written: the tables that were held stay held

	deep  atomic.Int64 // deepMerge after the last compaction
	ended atomic.Int64 // when the last compaction ended, unix nanoseconds
}

// Badger's messages about its compactions.
const (
	saysTable  = "[%d] LOG Compact. Added %d keys. Skipped %d keys. Iteration took: %v"
	saysDone   = "[Compactor: %d] Compaction for level: %d DONE"
	saysFailed = "[Compactor: %d] LOG Compact FAILED with error: %+v: %+v"
	// saysClosing comes before Badger begins to close. saysClosed comes when no compaction
	// runs any more and the folder is still locked.
	saysClosing = "Closing database"
	saysClosed  = "Waiting for closer"
)

// KnownBadger is the version whose messages this package understands.
const KnownBadger = "v4.9.6"

// OtherBadger is the version of Badger that this program was built with if it is not
// KnownBadger: another module may require a newer one. Otherwise it is empty.
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

// writeTime is how long a table that was begun may not show in the free space yet. Badger
// copies it into the memory map in about 20 ms.
const writeTime = 250 * time.Millisecond

// roomPoll is how often a waiting compaction checks for room.
const roomPoll = 50 * time.Millisecond

// NewCompactions returns nil, which watches nothing, if Badger is not KnownBadger. lost is
// called with the error if a table could not be written. note must store its text for the
// next start.
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

// begin waits for the compactor's turn and for room before the compactor writes a table
// with this number of keys.
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
	for !c.roomToBegin() { // Promise 1: a compaction begins a table only if the disk has room for it.
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

// hold keeps the files of the present tables until release.
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

// roomToBegin reports whether the disk has room for another table, in addition to the
// tables that are being written and to a memtable that becomes a table.
func (c *Compactions) roomToBegin() bool {
	if c.disk == nil {
		return true
	}
	c.begun = slices.DeleteFunc(c.begun, func(at time.Time) bool { return time.Since(at) > writeTime })
	return c.disk.roomToCompact(int64(len(c.begun)+1) * TableSize)
}

// end releases the held tables if all announced tables exist.
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
	if missing > 0 { // Promise 1: records that a compaction could not write are not removed.
		c.missed, c.release = true, nil // never release them
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

// beginClosing holds the tables that are merged from now on.
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

// Idle reports whether no compaction runs. begun is when the last remembered table was
// begun.
func (c *Compactions) Idle() (idle bool, begun time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.begun); n > 0 {
		begun = c.begun[n-1]
	}
	return !c.running, begun
}

// Ended returns when the last compaction ended, or 1970 if none has ended.
func (c *Compactions) Ended() time.Time {
	if c == nil {
		return time.Unix(0, 0)
	}
	return time.Unix(0, c.ended.Load())
}

// missing returns the number of records of an announced table that does not exist, or 0 if
// all exist.
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

// flatMerge returns the most bytes that a merge of level 0 writes before it removes any
// table. Such a merge writes level 0 and the memtables into the first other level that has
// tables. flatMerge returns 0 if no merge of level 0 is near.
func flatMerge(levels []badger.LevelInfo) int64 {
	if levels[0].NumTables+NumMemtables < LevelZeroTables {
		return 0
	}
	bytes := levels[0].Size + NumMemtables*MemTableSize
	for i, into := range levels[1:] {
		if into.NumTables > 0 && i+1 == len(levels)-1 {
			return bytes + min(into.Size, BaseLevelSize) // with more, Badger would choose a level above
		}
		if into.NumTables > 0 {
			return bytes + into.Size
		}
	}
	return bytes
}

// lastLevel is the last of Badger's seven levels.
const lastLevel = 6

// deepMerge returns the most bytes that a merge of another level writes before it removes
// any table: one table and all tables that it overlaps in the next level.
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

// span is the key range and the size of a table.
type span struct {
	from, to []byte
	size     int64
}

// heaviest returns the most bytes that one table in above and the tables in below that it
// overlaps have together. Both lists are sorted.
func heaviest(above, below []span) (most int64) {
	first := 0 // the first table in below that the next one in above may overlap
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
