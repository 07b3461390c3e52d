package badgercompat

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/userhero/relay/queue"
)

// Disk watches the free space of the store's disk. Badger writes through memory maps of
// sparse files. On a full disk the kernel sends SIGBUS, which ends the process, at every
// start again. So the store checks for room before it writes anything.
//
//	accept ── free space below which no new event is taken; deliveries go on.
//	          More where a compaction needs more: else a disk that is full of
//	          finished events would never get rid of them.
//	table ─── free space below which a compaction begins no table
//	write ─── free space below which nothing is written at all
//	close ─── free space below which Badger stays open: its closing writes tables
type Disk struct {
	fileSystem    func(path string) (size, free int64, err error)
	path          string
	accept, write int64
	max           atomic.Int64 // of the store's files; 0 is none
	// merge returns how many bytes Badger's next compaction may write before it removes
	// any. Nil means 0.
	merge func() int64

	merging atomic.Int64 // what merge returned when avail was read
	size    atomic.Int64 // bytes of the store's files, as last measured
	tables  atomic.Int64 // bytes of tables in size, including old and new tables of a merge
	written atomic.Int64 // bytes written since size was measured
	ever    atomic.Int64 // bytes written since the store was opened
	avail   atomic.Int64 // last reading of free space; -1 if it is unknown
	read    atomic.Int64 // when avail was read, unix nanoseconds
	falls   atomic.Int64 // how far avail may fall within fallAhead

	mu    sync.Mutex // guards everything below
	past  int64      // an earlier reading of free space, at most fallOver old
	since int64      // when past was read, unix nanoseconds
}

// Sizes of Badger's parts, in bytes or numbers. They limit the process's memory and
// determine how much room must be free on the disk.
const (
	MemTableSize    = 5 << 20 // with 16 MiB, and tables of 8, a store writes as much and takes twice the memory
	NumMemtables    = 3
	TableSize       = 4 << 20
	BaseLevelSize   = 64 << 20 // with Badger's default of 10 MiB, events are written to one more level
	LevelZeroTables = 8        // with more, merges write less, but a drained store keeps that many tables
)

// A memtable's log is mapped at twice the memtable's size, and one more may be
// made before the oldest is flushed to a table of about the same size.
const (
	ReserveWrite  = 2 * MemTableSize
	ReserveTable  = 3 * MemTableSize
	ReserveAccept = 4 * MemTableSize
	reserveMost   = 256 << 20
	// FreeAge is how long a reading of free space is used.
	FreeAge = 5 * time.Millisecond
	// Another process may fill the disk with a gigabyte a second. If the free space falls
	// within fallOver by more than the store's own tables take (fallOwn), Disk counts with
	// the free space that will be left after fallAhead. A memtable needs that long to
	// become a table.
	fallOver  = 100 * time.Millisecond
	fallOwn   = 2 * MemTableSize
	fallAhead = 250 * time.Millisecond
	fallMost  = 512 << 20 // the fastest fall that is expected: a disk with more free space does not become full
)

// NewDisk watches the file system that path is on. minFree is the free space, in bytes, below
// which no event is accepted; 0 derives it from the size of the file system. maxDisk bounds the
// store's files; 0 is no bound.
func NewDisk(fileSystem func(string) (size, free int64, err error), path string, minFree, maxDisk int64) (*Disk, error) {
	total, _, err := fileSystem(path)
	if err != nil {
		return nil, fmt.Errorf("reading the free space at %s: %w", path, err)
	}
	d := &Disk{fileSystem: fileSystem, path: path, accept: minFree}
	d.max.Store(maxDisk)
	if d.accept == 0 {
		d.accept = min(max(total*15/100, ReserveAccept), reserveMost)
	}
	d.write = min(d.accept, ReserveWrite)
	d.Measure()
	return d, nil
}

// FileSystemOf reads the file system that path is on, or will be on once it has
// been made.
func FileSystemOf(path string) (total, free int64, err error) {
	total, free, err = fileSystem(path)
	for errors.Is(err, fs.ErrNotExist) && filepath.Dir(path) != path {
		path = filepath.Dir(path)
		total, free, err = fileSystem(path)
	}
	return total, free, err
}

// Free returns the free space in bytes. It reads the space at most once in FreeAge. It
// returns -1 if the system does not report it.
func (d *Disk) Free() int64 {
	if time.Now().UnixNano()-d.read.Load() > int64(FreeAge) {
		d.look()
	}
	return d.avail.Load()
}

// look reads the free space.
func (d *Disk) look() {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, free, err := d.fileSystem(d.path)
	if err != nil {
		free = -1
	}
	if d.merge != nil {
		d.merging.Store(d.merge())
	}
	now := time.Now().UnixNano()
	falls := int64(0)
	if over := now - d.since; over > 0 && over <= int64(fallOver) {
		if lost := d.past - free - fallOwn; lost > 0 {
			falls = min(lost, fallMost) * int64(fallAhead) / over
			falls = min(falls, fallMost)
		}
	} else {
		d.past, d.since = free, now
	}
	d.falls.Store(falls)
	d.avail.Store(free)
	d.read.Store(now)
}

// Filled notes that the system has refused a write, until the free space is read
// again.
func (d *Disk) Filled() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.avail.Store(0)
	d.read.Store(time.Now().UnixNano())
}

// room is the free space that can be counted on, or more than there is on any
// disk if the system does not say.
func (d *Disk) room() int64 {
	free := d.Free()
	if free < 0 || d.accept < 0 {
		return math.MaxInt64
	}
	return max(free-d.falls.Load(), 0)
}

// Used returns the size of the store's files: the last measured size plus the bytes written
// since.
func (d *Disk) Used() int64 { return d.size.Load() + d.written.Load() }

// Wrote counts what a commit wrote.
func (d *Disk) Wrote(n int64) {
	d.written.Add(n)
	d.ever.Add(n)
}

// Measure reads the size of the store's files.
func (d *Disk) Measure() {
	d.written.Store(0)
	size, tables := folderSize(d.path)
	d.size.Store(size)
	d.tables.Store(tables)
}

// RoomToOpen returns an error that wraps queue.ErrFull if there is no room to open the store.
func (d *Disk) RoomToOpen() error {
	if room := d.room(); room < d.write {
		return fmt.Errorf("%w: %s free at %s, and opening the store needs %s; free some space and start again",
			queue.ErrFull, MiB(room), d.path, MiB(d.write))
	}
	return nil
}

// RoomToAccept returns an error that wraps queue.ErrFull if no new event may be taken.
func (d *Disk) RoomToAccept() error {
	if room, kept := d.room(), d.kept(); room < kept {
		return fmt.Errorf("%w: %s free at %s, of which %s are kept; free some space", queue.ErrFull, MiB(room), d.path, MiB(kept))
	}
	if most := d.max.Load(); most > 0 && d.Used() >= most {
		return fmt.Errorf("%w: the store at %s has reached max_disk (%s); raise it, or let deliveries end", queue.ErrFull, d.path, MiB(most))
	}
	return nil
}

// kept returns the free space that new events may not use.
func (d *Disk) kept() int64 {
	if merging := d.merging.Load(); d.accept >= 0 && merging > 0 {
		return max(d.accept, merging+ReserveTable)
	}
	return d.accept
}

// roomToCompact reports whether a compaction may be writing this many bytes of tables.
func (d *Disk) roomToCompact(bytes int64) bool { return d.room() >= ReserveTable+bytes }

// RoomToWrite reports whether anything may be written.
func (d *Disk) RoomToWrite() bool { return d.room() >= d.write }

// Full returns the error that explains why nothing can be written. It wraps queue.ErrFull.
func (d *Disk) Full() error {
	return fmt.Errorf("%w: %s free at %s, and writing needs %s; free some space", queue.ErrFull, MiB(d.room()), d.path, MiB(d.write))
}

// RoomToClose reports whether Badger may flush its memtables and end a
// compaction that is under way.
func (d *Disk) RoomToClose() bool { return d.room() >= ReserveAccept }

// MiB writes a number of bytes for people, in whole MiB.
func MiB(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }

// Max returns the limit of the store's files in bytes; 0 means no limit.
func (d *Disk) Max() int64 { return d.max.Load() }

// SetMax changes the limit.
func (d *Disk) SetMax(n int64) { d.max.Store(n) }

// Written is how many bytes commits have written since the store was opened.
func (d *Disk) Written() int64 { return d.ever.Load() }

// Rewritten takes back n bytes that Wrote has counted and that a rewrite of the tree
// has removed.
func (d *Disk) Rewritten(n int64) { d.written.Add(-n) }

// BesideTables is the size of the store's files without its tables, as measured.
func (d *Disk) BesideTables() int64 { return d.size.Load() - d.tables.Load() }
