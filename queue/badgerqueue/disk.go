package badgerqueue

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
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
type disk struct {
	path          string
	accept, write int64
	max           int64 // of the store's files; 0 is none
	// merge tells how many bytes Badger's next compaction may write before it
	// removes any; nil: none.
	merge func() int64

	merging atomic.Int64 // what merge told when avail was read
	size    atomic.Int64 // measured
	written atomic.Int64 // since it was measured
	ever    atomic.Int64 // written since the store was opened
	avail   atomic.Int64 // last reading of free space; -1 where unknown
	read    atomic.Int64 // when avail was read, unix nanoseconds
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
)

func newDisk(path string, minFree, maxDisk int64) (*disk, error) {
	total, _, err := fileSystemOf(path)
	if err != nil {
		return nil, fmt.Errorf("reading the free space at %s: %w", path, err)
	}
	d := &disk{path: path, accept: minFree, max: maxDisk}
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

// free is the free space in bytes, read at most every few milliseconds; -1
// where the system does not say.
func (d *disk) free() int64 {
	now := time.Now().UnixNano()
	if now-d.read.Load() > int64(freeAge) {
		_, free, err := fileSystemOf(d.path)
		if err != nil {
			free = -1
		}
		if d.merge != nil {
			d.merging.Store(d.merge())
		}
		d.avail.Store(free)
		d.read.Store(now)
	}
	return d.avail.Load()
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
	d.size.Store(folderSize(d.path))
}

func (d *disk) roomToOpen() error {
	if free := d.free(); free >= 0 && free < d.write {
		return fmt.Errorf("%w: %s free at %s, and opening the store needs %s; free some space and start again",
			queue.ErrFull, mib(free), d.path, mib(d.write))
	}
	return nil
}

func (d *disk) roomToAccept() error {
	if free, kept := d.free(), d.kept(); free >= 0 && free < kept {
		return fmt.Errorf("%w: %s free at %s, of which %s are kept; free some space", queue.ErrFull, mib(free), d.path, mib(kept))
	}
	if d.max > 0 && d.used() >= d.max {
		return fmt.Errorf("%w: the store at %s has reached max_disk (%s); raise it, or let deliveries end", queue.ErrFull, d.path, mib(d.max))
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

// roomToCompact tells whether a compaction may have so many bytes of tables under
// way.
func (d *disk) roomToCompact(bytes int64) bool {
	free := d.free()
	return free < 0 || d.accept < 0 || free >= reserveTable+bytes
}

func (d *disk) roomToWrite() bool {
	free := d.free()
	return free < 0 || free >= d.write
}

func mib(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }
