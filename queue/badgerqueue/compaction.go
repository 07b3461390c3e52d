package badgerqueue

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/table"
)

// compactions watches Badger merge its tables, for two things that it leaves to
// luck. A table that cannot be written ends in silence: the compaction goes on
// without it and removes the tables it was to be made of (v4.9.6, subcompact in
// levels.go). And a table is written through a memory map, which on a full disk
// ends the process.
//
//	a table is about to be written ── there must be room; the tables of now are held
//	the compaction is done ────────── every table that was to be written is there,
//	                                  and what is held is let go;
//	                                  else it stays, and the store takes no more
//
// What it knows, it knows from Badger's log: of each table that is about to be
// written, in the goroutine that will, how many keys it has. Compactions go one by
// one, so a table that came meanwhile is theirs, or a memtable's.
type compactions struct {
	disk *disk              // nil: no room is asked for
	lost func(error) error  // told what could not be written
	note func(string) error // keeps it for the next start

	mu      sync.Mutex
	turn    *sync.Cond // compactor has changed, or tree
	tree    *tree      // nil until Badger is open
	running bool
	id      int // of the compactor that has its turn
	held    map[uint64]*table.Table
	due     map[uint32]int // tables to be written, by their number of keys
	begun   []time.Time    // when those of the last moments were

	deep  atomic.Int64 // tree.deep, since the last compaction
	ended atomic.Int64 // when that was, unix nanoseconds
}

// What Badger says of its compactions.
const (
	saysTable  = "[%d] LOG Compact. Added %d keys. Skipped %d keys. Iteration took: %v"
	saysDone   = "[Compactor: %d] Compaction for level: %d DONE"
	saysFailed = "[Compactor: %d] LOG Compact FAILED with error: %+v: %+v"
)

// knownBadger says so.
const knownBadger = "v4.9.6"

// otherBadger is the version of Badger that this program was built with, where it
// is not the one of go.mod: another module may have asked for a newer one.
var otherBadger = func() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if d.Path == "github.com/dgraph-io/badger/v4" && d.Version != knownBadger {
				return d.Version
			}
		}
	}
	return ""
}()

// writeTime is how long a table, once begun, may not show in the free space yet: it
// is copied into the memory map in some 20 ms.
const writeTime = 250 * time.Millisecond

// newCompactions returns nil, which watches nothing, where Badger is another than
// the one whose log is understood.
func newCompactions(d *disk, lost func(error) error, note func(string) error) *compactions {
	if otherBadger != "" {
		return nil
	}
	c := &compactions{disk: d, lost: lost, note: note, due: make(map[uint32]int)}
	c.turn = sync.NewCond(&c.mu)
	return c
}

// watch is told Badger, as soon as it is open; compactions wait until then.
func (c *compactions) watch(db *badger.DB) error {
	if c == nil {
		return nil
	}
	t, err := findTree(db)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tree = t
	c.turn.Broadcast()
	c.deep.Store(t.deep())
	if c.disk != nil && err == nil {
		c.disk.merge = func() int64 { return max(t.flat(), c.deep.Load()) }
	}
	return err
}

// heard is told what Badger writes to its log.
func (c *compactions) heard(format string, args []any) {
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
	}
}

// begin waits for the compactor's turn and for room, before it writes a table of
// so many keys.
func (c *compactions) begin(id int, keys uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.tree == nil || c.running && c.id != id {
		c.turn.Wait()
	}
	if !c.running {
		c.running, c.id = true, id
		c.held = c.tree.hold()
	}
	if keys == 0 {
		return
	}
	c.due[keys]++
	for !c.roomToBegin() { // Promise 1: a compaction begins no table for which there is no room.
		c.mu.Unlock()
		<-time.After(stallPoll / 4)
		c.mu.Lock()
	}
	c.begun = append(c.begun, time.Now())
}

// roomToBegin tells whether another table fits beside those that are being
// written and a memtable that becomes one.
func (c *compactions) roomToBegin() bool {
	if c.disk == nil {
		return true
	}
	c.begun = slices.DeleteFunc(c.begun, func(at time.Time) bool { return time.Since(at) > writeTime })
	return c.disk.roomToCompact(int64(len(c.begun)+1) * tableSize)
}

// end lets go what was held, where all is there that was to be written.
func (c *compactions) end(id int, done bool) {
	c.mu.Lock()
	if !c.running || c.id != id {
		c.mu.Unlock()
		return
	}
	held := c.held
	missing := 0
	if done {
		missing = c.missing()
	}
	c.running, c.held = false, nil
	clear(c.due)
	c.deep.Store(c.tree.deep())
	c.ended.Store(time.Now().UnixNano())
	c.turn.Broadcast()
	c.mu.Unlock()
	if missing > 0 { // Promise 1: what a compaction could not write is not removed.
		what := fmt.Sprintf("a table of %d records could not be written, and Badger goes on without it;"+
			" the tables it was to be made of are still here, and Badger would remove them at the next start", missing)
		err := errors.New("compacting: " + what)
		if unnoted := c.note(what); unnoted != nil {
			err = fmt.Errorf("%w; %w", err, unnoted)
		}
		_ = c.lost(err)
		return
	}
	var errs []error
	for _, t := range held {
		errs = append(errs, t.DecrRef())
	}
	if err := errors.Join(errs...); err != nil {
		_ = c.lost(fmt.Errorf("removing a table: %w", err))
	}
}

// endedWithin tells whether tables were merged in the time that has just passed.
func (c *compactions) endedWithin(d time.Duration) bool {
	return c != nil && time.Since(time.Unix(0, c.ended.Load())) < d
}

// missing is how many records a table has that was to be written and is not
// there, or 0.
func (c *compactions) missing() int {
	c.tree.each(func(t *table.Table) {
		if _, old := c.held[t.ID()]; !old && c.due[t.KeyCount()] > 0 {
			c.due[t.KeyCount()]--
		}
	})
	for keys, n := range c.due {
		if n > 0 {
			return int(keys)
		}
	}
	return 0
}

// tree is Badger's tables. It has no way to hold them, so they are found among
// its private fields.
type tree struct{ levels []level }

type level struct {
	mu     *sync.RWMutex
	tables *[]*table.Table
}

// findTree looks the levels up by name and type. Where they are not what they
// were, the store is not opened: without them it could lose events.
func findTree(db *badger.DB) (*tree, error) {
	t := &tree{}
	field := func(of reflect.Value, name string) reflect.Value {
		if of = reflect.Indirect(of); of.Kind() != reflect.Struct {
			return reflect.Value{}
		}
		return of.FieldByName(name)
	}
	levels := field(field(reflect.ValueOf(db), "lc"), "levels")
	if levels.Kind() != reflect.Slice || levels.Len() == 0 {
		return t, errNoTree
	}
	for i := range levels.Len() {
		mu, tables := field(levels.Index(i), "RWMutex"), field(levels.Index(i), "tables")
		if !mu.IsValid() || mu.Type() != reflect.TypeFor[sync.RWMutex]() || !tables.IsValid() || tables.Type() != reflect.TypeFor[[]*table.Table]() {
			return &tree{}, errNoTree
		}
		t.levels = append(t.levels, level{
			mu:     (*sync.RWMutex)(unsafe.Pointer(mu.UnsafeAddr())),
			tables: (*[]*table.Table)(unsafe.Pointer(tables.UnsafeAddr())),
		})
	}
	return t, nil
}

var errNoTree = errors.New("this build has a Badger whose tables cannot be held while they are merged: build with " + knownBadger)

func (l level) each(visit func(*table.Table)) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, t := range *l.tables {
		visit(t)
	}
}

// each visits the tables of now.
func (t *tree) each(visit func(*table.Table)) {
	for _, l := range t.levels {
		l.each(visit)
	}
}

// hold takes a reference to every table of now, so that its file stays.
func (t *tree) hold() map[uint64]*table.Table {
	held := make(map[uint64]*table.Table)
	t.each(func(one *table.Table) {
		one.IncrRef()
		held[one.ID()] = one
	})
	return held
}

// flat is the most that a merge of level 0 writes before it removes anything: all
// of it and what is still in memtables go into the first of the other levels that
// has tables. 0: it is not about to happen.
func (t *tree) flat() int64 {
	size := func(l level) (bytes int64, tables int) {
		l.each(func(one *table.Table) { bytes += one.Size(); tables++ })
		return bytes, tables
	}
	bytes, tables := size(t.levels[0])
	if tables+numMemtables < levelZeroTables {
		return 0
	}
	bytes += numMemtables * memTableSize
	for i, l := range t.levels[1:] {
		into, tables := size(l)
		if tables > 0 && i+1 == len(t.levels)-1 {
			return bytes + min(into, baseLevelSize) // if it were more, a level above would be taken
		}
		if tables > 0 {
			return bytes + into
		}
	}
	return bytes
}

// deep is the most that a merge of another level writes before it removes
// anything: one table and all that it overlaps in the next.
func (t *tree) deep() (most int64) {
	var above []span
	for i, l := range t.levels {
		if i == 0 {
			continue
		}
		var tables []span
		l.each(func(one *table.Table) { tables = append(tables, span{one.Smallest(), one.Biggest(), one.Size()}) })
		most = max(most, heaviest(above, tables))
		above = tables
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
