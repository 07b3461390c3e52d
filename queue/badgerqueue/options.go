package badgerqueue

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/badgercompat"
	"github.com/userhero/relay/queue/badgerqueue/storeclock"
)

// Options say where the store is and what it may use.
type Options struct {
	// Path is the store's folder. It is made if it is missing, and closed to other
	// users (mode 0700). If it belongs to another user and is open to others, the
	// store goes into a folder "store" in it.
	Path string
	// EncryptionKey, of 16, 24 or 32 bytes, encrypts everything at rest with
	// AES. A store keeps the key it was made with.
	EncryptionKey []byte
	// PreviousKey is the key a store may still have: then Open changes it to
	// EncryptionKey first. See RotateKey.
	PreviousKey []byte
	// Retention is how long an event is kept after its last delivery ended.
	// Default 30 days.
	Retention time.Duration
	// MaxDisk bounds the store's files in bytes: near it finished events go
	// early, at it Enqueue answers queue.ErrFull. 0 is no bound.
	MaxDisk int64
	// MinFree is the free disk space in bytes below which Enqueue answers
	// queue.ErrFull. Default: 15 % of the file system, but at least 64 MiB
	// (four memtables) and at most 256 MiB. -1 takes the guard away, for file
	// systems that do not tell their free space truly; on a disk that is really
	// full the process then dies by SIGBUS.
	MinFree int64
	// Memory is the memory that the process may use, in bytes, as far as it limits the
	// store: with less than 1 GiB tables are smaller, and less may wait for a commit.
	// 0 is no limit. A store may be opened with another value than before.
	Memory int64
	// FileSystem reads the size and the free space, in bytes, of the file system
	// that path is on; free is -1 if the system does not say. Default: the
	// machine's. Tests fill a disk with it.
	FileSystem func(path string) (size, free int64, err error)
	// Clock tells the time of day and what the machine slept. Default: the
	// machine's. Everything else is timed by the runtime's clock.
	Clock queue.Clock
	// Logger gets the store's and Badger's messages. Default: none.
	Logger *slog.Logger
	// OnCommit, unless nil, is called after every durable commit with the time
	// it took and the number of operations in it.
	OnCommit func(took time.Duration, operations int)

	// Tests show with these what their opposites are for: trusting opens a damaged
	// store as Badger would and goes on after a failed write, unsynced acknowledges
	// what is not on the disk.
	trusting, unsynced bool
}

// defaultRetention is how long an event is kept if nothing is said.
const defaultRetention = 30 * 24 * time.Hour

func (o *Options) complete() error {
	if o.Path == "" {
		return errors.New("the store needs a path")
	}
	switch len(o.EncryptionKey) {
	case 0, 16, 24, 32:
	default:
		return fmt.Errorf("the encryption key has %d bytes; it must have 16, 24 or 32", len(o.EncryptionKey))
	}
	if len(o.PreviousKey) > 0 && len(o.EncryptionKey) == 0 {
		return errors.New("a previous encryption key needs a new one")
	}
	if o.Retention < 0 || o.MaxDisk < 0 || o.Memory < 0 || o.MinFree < -1 {
		return errors.New("retention, max_disk, memory and the free space to keep cannot be negative")
	}
	if o.Retention == 0 {
		o.Retention = defaultRetention
	}
	if o.FileSystem == nil {
		o.FileSystem = badgercompat.FileSystemOf
	}
	if o.Clock == nil {
		o.Clock = storeclock.System{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// bounds say what the store may hold in memory and how often it cleans up. Tests make
// them tiny, so that they take every way between memory and disk.
type bounds struct {
	fresh      int   // events in an inbox
	freshBytes int   // of their bodies
	pending    int64 // bytes of new events that wait for the committer
	window     int   // deliveries in a window read from disk
	told       int   // new R keys a lane is told of one by one
	scan       int   // B records one call reads in search of fresh deliveries
	// memtable is the size of Badger's memtables in bytes, from which its other sizes
	// follow.
	memtable int64
	// verify is how many bytes of tables are verified before the store opens.
	verify int64
	// The sweep looks no more often than sweep, and gives the disk back what it has
	// removed no more often than reclaim.
	sweep, reclaim time.Duration
}

// A start must not wait until the whole of a large store has been verified, 12 GB
// with 10,000,000 waiting events: beyond verify, tables are read after the start.
var defaultBounds = bounds{
	fresh: 512, freshBytes: 1 << 20, pending: maxPending, window: 256, told: 4096, scan: 16384,
	memtable: badgercompat.MemTableSize, verify: 256 << 20, sweep: 50 * time.Millisecond, reclaim: 5 * time.Minute,
}

// within returns the bounds for a process that may use so much memory, in bytes; 0 is
// no limit. A memtable of half the size makes Badger's tables and what it takes to
// build them half as large.
func (b bounds) within(memory int64) bounds {
	if memory > 0 && memory < enoughMemory {
		b.memtable = max(b.memtable*memory/enoughMemory, b.memtable/2)
		b.pending = b.pending * memory / enoughMemory
		b.freshBytes = int(int64(b.freshBytes) * memory / enoughMemory)
	}
	return b
}

// enoughMemory is the memory from which on nothing is made smaller, in bytes.
const enoughMemory = 1 << 30

// deliveries bounds those of one event.
func (b *bounds) deliveries() int {
	return int(maxDeliveries * min(b.memtable, badgercompat.MemTableSize) / badgercompat.MemTableSize)
}

// maxValue is the size in bytes from which Badger puts a value into its value log,
// which nobody syncs; ours are shorter. 1 MiB but in tests.
func (b *bounds) maxValue() int { return int(b.memtable / 16) }
