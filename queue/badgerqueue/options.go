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

// Options set where the store is and what it may use.
type Options struct {
	// Path is the store's folder. It is made if it is missing, and only its owner gets
	// access (mode 0700). If the folder belongs to another user and others have access, the
	// store uses the folder "store" inside it.
	Path string
	// EncryptionKey has 16, 24 or 32 bytes and encrypts everything on disk with AES. A
	// store keeps the key that it was made with, unless PreviousKey or RotateKey changes it.
	EncryptionKey []byte
	// PreviousKey is a key that the store may still have. If it has that key, Open first
	// changes it to EncryptionKey. See RotateKey.
	PreviousKey []byte
	// Retention is how long an event is kept after its last delivery ended.
	// Default 30 days.
	Retention time.Duration
	// MaxDisk is the most bytes that the store's files may take. Near it the store removes
	// finished events early; at it Enqueue returns queue.ErrFull. 0 means no limit.
	MaxDisk int64
	// MinFree is the free disk space in bytes below which Enqueue returns
	// queue.ErrFull. Default: 15 % of the file system, but at least 20 MiB
	// (four memtables) and at most 256 MiB. -1 disables the check, for file
	// systems that report their free space wrongly. The process then dies by
	// SIGBUS if the disk is really full.
	MinFree int64
	// Memory is the memory that the process may use, in bytes. With less than 1 GiB fewer
	// bytes may wait for a commit, a webhook keeps fewer events in memory, and the caches of
	// an encrypted store are smaller. 0 means no limit. A store may be opened with a different
	// value each time.
	Memory int64
	// FileSystem reads the size and the free space, in bytes, of the file system
	// that holds path. free is -1 if the system does not report it. Default: the
	// machine's file system. Tests simulate a full disk with it.
	FileSystem func(path string) (size, free int64, err error)
	// Clock reads the time of day and how long the machine slept. Default: the
	// machine's clock. Everything else uses the runtime's clock.
	Clock queue.Clock
	// Logger gets the store's and Badger's messages. Default: none.
	Logger *slog.Logger
	// OnCommit is called after every durable commit, with the time that the commit took and
	// its number of operations. It may be nil.
	OnCommit func(took time.Duration, operations int)

	// Only tests set these, to show what the checks are for. trusting opens a damaged store
	// as Badger would, and continues after a failed write. unsynced acknowledges events that
	// are not on the disk.
	trusting, unsynced bool
}

// defaultRetention is how long an event is kept if Options.Retention is 0.
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

// bounds limit what the store holds in memory and how often it cleans up. Tests make them
// tiny, so that every path between memory and disk is used.
type bounds struct {
	fresh      int   // events in an inbox
	freshBytes int   // bytes of the bodies of these events
	pending    int64 // bytes of new events that wait for the committer
	window     int   // deliveries in a window read from disk
	told       int   // new R keys in an inbox
	scan       int   // B records that one call reads to find fresh deliveries
	// blockCache and indexCache are the bytes of decrypted blocks and indexes in memory.
	// Only an encrypted store has them: without encryption files are mapped into memory.
	blockCache, indexCache int64
	// memtable is the size of Badger's memtables in bytes. Badger's other sizes are
	// computed from it.
	memtable int64
	// verify is how many bytes of tables are verified before the store opens.
	verify int64
	// slow is how long a commit may take before the store accepts no events until it ends.
	slow time.Duration
	// sweep is the least time between two rounds of the sweep. reclaim is the least time
	// between two rewrites of the tree that give space back to the disk.
	sweep, reclaim time.Duration
}

// A start must not wait until all of a large store is verified (12 GB with 10,000,000
// waiting events). So only verify bytes are read before the start, and the rest after it.
var defaultBounds = bounds{
	fresh: 512, freshBytes: 1 << 20, pending: maxPending, window: 256, told: 4096, scan: 16384, blockCache: 32 << 20, indexCache: 16 << 20,
	memtable: badgercompat.MemTableSize, verify: 256 << 20, slow: 10 * time.Second, sweep: 50 * time.Millisecond, reclaim: 5 * time.Minute,
}

// within returns the bounds for a process that may use this much memory, in bytes; 0 means
// no limit.
func (b bounds) within(memory int64) bounds {
	if memory > 0 && memory < enoughMemory {
		b.pending = b.pending * memory / enoughMemory
		b.freshBytes = int(int64(b.freshBytes) * memory / enoughMemory)
		b.blockCache = b.blockCache * memory / enoughMemory
		b.indexCache = b.indexCache * memory / enoughMemory
	}
	return b
}

// enoughMemory is the memory, in bytes, from which the default bounds are used.
const enoughMemory = 1 << 30

// deliveries returns the most deliveries of one event.
func (b *bounds) deliveries() int {
	return int(maxDeliveries * min(b.memtable, badgercompat.MemTableSize) / badgercompat.MemTableSize)
}

// maxValue returns the size in bytes from which Badger puts a value into its value log.
// That log is not synced, so the store writes only shorter values. It is 640 KiB with the
// default memtable, and a finished event has at most 100 KiB. Badger allows 1 MiB at most.
func (b *bounds) maxValue() int { return int(min(b.memtable/8, 1<<20)) }
