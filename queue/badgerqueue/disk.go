package badgerqueue

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

// disk watches the room the store has. Badger writes through memory maps of
// sparse files: on a full disk the kernel answers with SIGBUS, which no Go code
// survives, and again at every start. So room is asked for before anything is
// written.
//
//	accept ── free space below which no new event is taken; deliveries go on.
//	          More where a compaction needs more: else a disk that is full of
//	          finished events would never get rid of them.
//	table ─── free space below which a compaction begins no table
//	write ─── free space below which nothing is written at all
//	close ─── free space below which Badger stays open: its closing writes tables
type disk struct {
	fileSystem    func(path string) (size, free int64, err error)
	path          string
	accept, write int64
	max           atomic.Int64 // of the store's files; 0 is none
	// merge tells how many bytes Badger's next compaction may write before it
	// removes any; nil: none.
	merge func() int64

	merging atomic.Int64 // what merge told when avail was read
	size    atomic.Int64 // measured
	tables  atomic.Int64 // of size; also those that a merge has replaced, or is about to
	written atomic.Int64 // since it was measured
	ever    atomic.Int64 // written since the store was opened
	avail   atomic.Int64 // last reading of free space; -1 if it is unknown
	read    atomic.Int64 // when avail was read, unix nanoseconds
	falls   atomic.Int64 // by so much avail may fall within fallAhead

	mu    sync.Mutex // guards everything below
	past  int64      // an earlier reading of free space, at most fallOver old
	since int64      // when past was read, unix nanoseconds
}

// A memtable's log is mapped at twice the memtable's size, and one more may be
// made before the oldest is flushed to a table of about the same size.
const (
	reserveWrite  = 2 * memTableSize
	reserveTable  = 3 * memTableSize
	reserveAccept = 4 * memTableSize
	reserveMost   = 256 << 20
	// nearMax is the share of max_disk from which finished events go early.
	nearMax = 0.9
	// freeAge is how long a reading of free space is believed.
	freeAge = 5 * time.Millisecond
	// Somebody else may be filling the disk, a gigabyte a second. If within
	// fallOver more goes than our own tables take (fallOwn), free space counts as
	// what will be left after fallAhead: so long a memtable takes to become a table.
	fallOver  = 100 * time.Millisecond
	fallOwn   = 2 * memTableSize
	fallAhead = 250 * time.Millisecond
	fallMost  = 512 << 20 // nobody fills faster, so a disk with more free is never full
)

func newDisk(fileSystem func(string) (size, free int64, err error), path string, minFree, maxDisk int64) (*disk, error) {
	total, _, err := fileSystem(path)
	if err != nil {
		return nil, fmt.Errorf("reading the free space at %s: %w", path, err)
	}
	d := &disk{fileSystem: fileSystem, path: path, accept: minFree}
	d.max.Store(maxDisk)
	if d.accept == 0 {
		d.accept = min(max(total*15/100, reserveAccept), reserveMost)
	}
	d.write = min(d.accept, reserveWrite)
	d.measure()
	return d, nil
}

// fileSystemOf reads the file system that path is on, or will be on once it has
// been made.
func fileSystemOf(path string) (total, free int64, err error) {
	total, free, err = fileSystem(path)
	for errors.Is(err, fs.ErrNotExist) && filepath.Dir(path) != path {
		path = filepath.Dir(path)
		total, free, err = fileSystem(path)
	}
	return total, free, err
}

// free is the free space in bytes, read at most every few milliseconds; -1 if
// the system does not say.
func (d *disk) free() int64 {
	if time.Now().UnixNano()-d.read.Load() > int64(freeAge) {
		d.look()
	}
	return d.avail.Load()
}

// look reads the free space.
func (d *disk) look() {
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

// isFull notes that the system has refused a write, until the free space is read
// again.
func (d *disk) isFull() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.avail.Store(0)
	d.read.Store(time.Now().UnixNano())
}

// room is the free space that can be counted on, or more than there is on any
// disk if the system does not say.
func (d *disk) room() int64 {
	free := d.free()
	if free < 0 || d.accept < 0 {
		return math.MaxInt64
	}
	return max(free-d.falls.Load(), 0)
}

// used is the size of the store's files, with what was written since it was
// last measured.
func (d *disk) used() int64 { return d.size.Load() + d.written.Load() }

// wrote counts what a commit wrote.
func (d *disk) wrote(n int64) {
	d.written.Add(n)
	d.ever.Add(n)
}

// measure reads the size of the store's files.
func (d *disk) measure() {
	d.written.Store(0)
	size, tables := folderSize(d.path)
	d.size.Store(size)
	d.tables.Store(tables)
}

func (d *disk) roomToOpen() error {
	if room := d.room(); room < d.write {
		return fmt.Errorf("%w: %s free at %s, and opening the store needs %s; free some space and start again",
			queue.ErrFull, mib(room), d.path, mib(d.write))
	}
	return nil
}

func (d *disk) roomToAccept() error {
	if room, kept := d.room(), d.kept(); room < kept {
		return fmt.Errorf("%w: %s free at %s, of which %s are kept; free some space", queue.ErrFull, mib(room), d.path, mib(kept))
	}
	if most := d.max.Load(); most > 0 && d.used() >= most {
		return fmt.Errorf("%w: the store at %s has reached max_disk (%s); raise it, or let deliveries end", queue.ErrFull, d.path, mib(most))
	}
	return nil
}

// kept is the free space that no new event gets.
func (d *disk) kept() int64 {
	if merging := d.merging.Load(); d.accept >= 0 && merging > 0 {
		return max(d.accept, merging+reserveTable)
	}
	return d.accept
}

// roomToCompact reports whether a compaction may have so many bytes of tables
// under way.
func (d *disk) roomToCompact(bytes int64) bool { return d.room() >= reserveTable+bytes }

func (d *disk) roomToWrite() bool { return d.room() >= d.write }

// full is why nothing can be written.
func (d *disk) full() error {
	return fmt.Errorf("%w: %s free at %s, and writing needs %s; free some space", queue.ErrFull, mib(d.room()), d.path, mib(d.write))
}

// roomToClose reports whether Badger may flush its memtables and end a
// compaction that is under way.
func (d *disk) roomToClose() bool { return d.room() >= reserveAccept }

func mib(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }
