package badgerqueue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/badgercompat"
	"github.com/userhero/relay/queue/badgerqueue/storeclock"
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

const (
	// In a store of at most smallStore, a few tables that are not merged hold more than
	// may be there of what was removed.
	smallLevelZeroTables = 1
	smallStore           = 32 * badgercompat.MemTableSize
	blockSize            = 16 << 10 // a dozen events: a table's index, read at every start, stays small
	blockCache           = 32 << 20 // with encryption only: else blocks are mapped
	indexCache           = 16 << 20 // likewise
	maxValue             = 1 << 20  // of a record, in bytes: see bounds.maxValue
	maxKeyName           = 512      // bytes of an idempotency key
	maxDeliveries        = 10_000   // of one event: to remove it takes two entries each in one transaction
	keyWindow            = 24 * time.Hour
	closeDeadline        = 20 * time.Second
	// closeFull is how long closing may take on a full disk, where a commit may wait
	// for a merge of tables, and that for room.
	closeFull = 2 * time.Second
	// closePoll is how often a store that waits for room to close looks for it:
	// less than lockPatience, within which another may open it.
	closePoll = 50 * time.Millisecond
)

// defaultRetention is how long an event is kept if nothing is said.
const defaultRetention = 30 * 24 * time.Hour

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

// Open opens the store at o.Path or makes a new one. Errors wrap queue.ErrFull
// when the disk has no room to open safely, and say what to do.
func Open(ctx context.Context, o Options) (*Store, error) {
	return open(ctx, o, defaultBounds)
}

func open(ctx context.Context, o Options, b bounds) (*Store, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	path, err := storefile.Ready(o.Path)
	if err != nil {
		return nil, err
	}
	o.Path = path
	s := &Store{
		o: o, bounds: b, log: o.Logger, clock: storeclock.New(o.Clock),
		ops:    make(chan operation, maxQueued),
		idle:   make(chan struct{}, 1),
		closed: make(chan struct{}),
		ending: make(chan struct{}),
		stop:   make(chan struct{}),
		moved:  make(chan struct{}, 1),

		limited:  make(chan struct{}, 1),
		webhooks: make(map[queue.WebhookID]*webhookState),
	}
	s.retention.Store(int64(o.Retention))
	if s.disk, err = badgercompat.NewDisk(o.FileSystem, o.Path, o.MinFree, o.MaxDisk); err != nil {
		return nil, err
	}
	if err := s.disk.RoomToOpen(); err != nil {
		return nil, err
	}
	if err := s.rotate(); err != nil {
		return nil, err
	}
	found, err := s.preflight(ctx)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(badgercompat.ReadyLogs(o.Path), badgercompat.MakeDiscard(o.Path)); err != nil {
		return nil, err
	}
	if !o.trusting {
		s.compactions = badgercompat.NewCompactions(s.disk, s.latch, func(why string) error { return storefile.NoteLost(o.Path, why) })
	}
	if s.db, err = badger.Open(s.badgerOptions()); err != nil {
		return nil, explainOpen(o.Path, err)
	}
	if badgercompat.OtherBadger != "" {
		s.log.Warn("a table that cannot be written while tables are merged would go unnoticed: build with Badger "+badgercompat.KnownBadger, "badger", badgercompat.OtherBadger)
	}
	s.snapshot = newSnapshot(s.db)
	s.compactions.Watch(s.db, s.reading) // compactions wait until then, and closing for them
	if err := s.load(found.Mark); err != nil {
		return nil, errors.Join(err, s.db.Close())
	}
	s.disk.Measure()
	s.snapshot.release()
	s.snapshot = newSnapshot(s.db) // with what load has written
	s.committer.init(s)
	if badgercompat.SyncsCommits && !o.unsynced {
		newest, err := newestLog(o.Path)
		if err == nil {
			s.committer.log, err = badgercompat.OpenCommitLog(o.Path, newest, int(b.memtable))
		}
		if err != nil {
			return nil, errors.Join(err, s.db.Close())
		}
	}
	s.committed.Go(s.committer.run)
	s.stopped.Go(s.sweep)
	s.stopped.Go(s.keepHighWater)
	s.stopped.Go(func() { s.verifyBehind(found) })
	return s, nil
}

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
	if o.Retention < 0 || o.MaxDisk < 0 || o.MinFree < -1 {
		return errors.New("retention, max_disk and the free space to keep cannot be negative")
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

func (s *Store) badgerOptions() badger.Options {
	o := badger.DefaultOptions(s.o.Path).
		WithSyncWrites(!badgercompat.SyncsCommits && !s.o.unsynced). // else the committer does it
		WithValueThreshold(int64(s.bounds.maxValue())).
		WithMemTableSize(s.bounds.memtable).
		WithNumMemtables(badgercompat.NumMemtables).
		WithBaseTableSize(s.bounds.memtable * badgercompat.TableSize / badgercompat.MemTableSize).
		WithBaseLevelSize(s.bounds.memtable * badgercompat.BaseLevelSize / badgercompat.MemTableSize).
		WithNumLevelZeroTables(badgercompat.LevelZeroTables).
		WithBlockSize(blockSize).
		WithNumCompactors(2).
		WithValueLogFileSize(16 << 20). // holds nothing: values stay in the tree
		// Badger measures a table by its compressed size, and keeps the memory
		// that the largest one took to build, eight times over: with text that
		// compresses well that is gigabytes. Without compression blocks are read
		// from the page cache as they are, and memory is bounded by the options.
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithDetectConflicts(false). // there is one writer
		WithNumVersionsToKeep(1).
		WithMetricsEnabled(false).
		// We verify tables ourselves. Badger would read them all before it opens,
		// or, where it checks blocks as they are read, end iterations early in
		// silence or crash (seen on v4.9.6).
		WithChecksumVerificationMode(options.NoVerification).
		WithLogger(badgercompat.Logger{Log: s.log, Failed: s.latch, Compactions: s.compactions})
	o.TableSizeMultiplier = 1 // tables of one size on every level
	if s.o.MaxDisk > 0 && s.o.MaxDisk <= smallStore {
		o.NumLevelZeroTables = smallLevelZeroTables
	}
	if len(s.o.EncryptionKey) > 0 {
		o = o.WithEncryptionKey(s.o.EncryptionKey).WithIndexCacheSize(indexCache).WithBlockCacheSize(blockCache)
	}
	return o
}

// explainOpen adds the remedy to what Badger says.
func explainOpen(path string, err error) error {
	switch {
	case errors.Is(err, badger.ErrEncryptionKeyMismatch):
		return errors.Join(storefile.WrongKey(path), err)
	case strings.Contains(err.Error(), "directory lock"):
		return errors.Join(inUse(path), err)
	}
	return fmt.Errorf("opening the store at %s: %w", path, err)
}

func inUse(path string) error {
	if _, ok := leftOpen.Load(filepath.Clean(path)); ok {
		return fmt.Errorf("opening the store at %s: it was closed on a full disk, and this process keeps its files open until %s are free; free some space and try again", path, badgercompat.MiB(badgercompat.ReserveAccept))
	}
	return fmt.Errorf("opening the store at %s: another process has it open; stop that one, or give this one another path", path)
}

// load reads format, counters and webhooks, and makes a new store's format.
func (s *Store) load(marked storefile.Mark) error {
	st := state{}
	err := s.db.Update(func(txn *badger.Txn) error {
		f, err := getRecord(txn, keyFormat, func(_, rec []byte) (format, error) { return decodeFormat(rec) })
		switch {
		case errors.Is(err, badger.ErrKeyNotFound):
			if seq, err := newestSeq(txn); err != nil || seq != 0 {
				return errors.Join(err, fmt.Errorf("%w: the store holds events but no format record", errDamaged))
			}
			f = format{version: formatVersion, tags: storefile.Tags{storefile.NewTag(0)}}
			if err := txn.Set(keyFormat, f.encode()); err != nil {
				return err
			}
		case err != nil:
			return err
		default:
			if err := knows("store", f.version); err != nil {
				return err
			}
		}
		s.tags, s.outdated, s.former = f.tags, f.version < formatVersion, f.former
		st, err = getRecord(txn, keyState, func(_, rec []byte) (state, error) { return decodeState(rec) })
		switch {
		case errors.Is(err, badger.ErrKeyNotFound): // a new store
			st = state{counted: true}
		case err != nil:
			return err
		}
		if s.outdated {
			s.former = st.seq
		}
		newest, err := newestSeq(txn)
		if err != nil {
			return err
		}
		if newest > st.seq {
			return fmt.Errorf("%w: the counters end with event number %d, the events with %d", errDamaged, st.seq, newest)
		}
		return s.loadWebhooks(txn)
	})
	if err != nil {
		return fmt.Errorf("reading the store at %s: %w", s.o.Path, err)
	}
	if err := s.db.Sync(); err != nil { // what opening has written, before the mark that tells of it
		return explainOpen(s.o.Path, err)
	}
	s.clock.Resume(st.at, st.shift)
	s.shown.Store(&st)
	now := storefile.Mark{Seq: st.seq, Commit: s.db.MaxVersion()}
	if (now.Seq < marked.Seq || now.Commit < marked.Commit) && !s.o.trusting {
		return &storefile.DamageError{Path: s.o.Path, Findings: []storefile.Finding{{Where: storefile.HighWaterFile, What: fmt.Sprintf(
			"event %d and transaction %d had been acknowledged; opened, the store ends with %d and %d", marked.Seq, marked.Commit, now.Seq, now.Commit)}}}
	}
	s.high, err = storefile.CreateHighWater(s.o.Path, now, s.tags)
	return err
}

func (s *Store) loadWebhooks(txn *badger.Txn) error {
	return scan(txn, []byte{prefixWebhook}, nil, func(key, rec []byte) (bool, error) {
		w, err := decodeWebhook(key, rec)
		if err != nil {
			return false, err
		}
		h := newWebhookState(w.ID, s.bounds)
		h.expires = w.Expires
		c, m, err := getLane(txn, w.ID)
		if err != nil && !errors.Is(err, badger.ErrKeyNotFound) {
			return false, err
		}
		if err == nil {
			h.counts, h.shown, h.marks = c, c, m
		}
		s.webhooks[w.ID] = h
		return true, nil
	})
}

func getLane(txn *badger.Txn, id queue.WebhookID) (c queue.Counts, m marks, err error) {
	_, err = getRecord(txn, laneKey(id), func(key, rec []byte) (struct{}, error) {
		var err error
		c, m, err = decodeLane(key, rec)
		return struct{}{}, err
	})
	return c, m, err
}

// newestSeq is the highest sequence number of an event in the store; 0 is none.
func newestSeq(txn *badger.Txn) (uint64, error) {
	it := txn.NewIterator(badger.IteratorOptions{Reverse: true})
	defer it.Close()
	it.Seek(after([]byte{prefixEvent}))
	for ; it.Valid(); it.Next() {
		if k := it.Item().Key(); len(k) == 9 && k[0] == prefixEvent {
			return seqOf(k), nil
		} else if k[0] < prefixEvent {
			break
		}
	}
	return 0, nil
}

// RotateKey gives an encrypted store that no process has open another key. The
// key encrypts the data keys, and those the data; so this takes no time, and who
// has kept a copy of the old KEYREGISTRY and the old key can read what was
// written until now. To have everything encrypted anew, restore a backup into a
// new store with another key.
func RotateKey(path string, from, to []byte) error {
	if len(from) == 0 || len(to) == 0 {
		return errors.New("both keys are needed: to encrypt a store that is not, back it up and restore it with a key, for else what was written before stays in the clear")
	}
	o := Options{Path: path, EncryptionKey: to}
	if err := o.complete(); err != nil {
		return err
	}
	path = storefile.Folder(path)
	unlock, err := lockFolder(path)
	if err != nil {
		return err
	}
	defer unlock()
	return rewriteKeys(path, from, to)
}

// rewriteKeys replaces the registry of keys, by a rename: a crash leaves the old
// one or the new one.
func rewriteKeys(path string, from, to []byte) error {
	switch _, err := storefile.ReadKeys(path, from); {
	case errors.Is(err, storefile.ErrKey):
		return fmt.Errorf("the old key is not that of the store at %s; nothing was changed", path)
	case err != nil:
		return fmt.Errorf("reading the keys of the store at %s: %w", path, err)
	}
	o := badger.KeyRegistryOptions{Dir: path, ReadOnly: true, EncryptionKey: from}
	keys, err := badger.OpenKeyRegistry(o)
	if err == nil {
		o.EncryptionKey = to
		err = badger.WriteKeyRegistry(keys, o)
	}
	if err != nil {
		return fmt.Errorf("changing the key of the store at %s: %w", path, err)
	}
	return nil
}

// rotate changes the key where the store still has the previous one.
func (s *Store) rotate() error {
	if len(s.o.PreviousKey) == 0 {
		return nil
	}
	if _, err := storefile.ReadKeys(s.o.Path, s.o.EncryptionKey); !errors.Is(err, storefile.ErrKey) {
		return nil // a new store, one that has the key, or one that inspect judges
	}
	if _, err := storefile.ReadKeys(s.o.Path, s.o.PreviousKey); err != nil {
		return nil //nolint:nilerr // neither key: opening says so
	}
	if err := RotateKey(s.o.Path, s.o.PreviousKey, s.o.EncryptionKey); err != nil {
		return err
	}
	s.log.Info("the store has the new encryption key; the previous one is not needed any more", "path", s.o.Path)
	return nil
}
