package badgerqueue

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/badgercompat"
	"github.com/userhero/relay/queue/badgerqueue/layout"
	"github.com/userhero/relay/queue/badgerqueue/storeclock"
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

const (
	// In a store of at most smallStore, a few unmerged tables would hold too many removed
	// records. So such a store merges after smallLevelZeroTables.
	smallLevelZeroTables = 1
	smallStore           = 32 * badgercompat.MemTableSize
	// Badger allocates a block at once, and anew for an entry that is larger, which then takes
	// three times its size until the table is written. Nearly every event fits this size.
	// A table's index, which every start reads, has one record for each block.
	blockSize = 72 << 10
)

// Open opens the store at o.Path or makes a new one. Errors wrap queue.ErrFull if the disk
// has no room to open safely, and explain what to do.
func Open(ctx context.Context, o Options) (*Store, error) {
	return open(ctx, o, defaultBounds.within(o.Memory))
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
	if err := s.flushLargerLogs(); err != nil {
		return nil, err
	}
	if s.db, err = badger.Open(s.badgerOptions()); err != nil {
		return nil, explainOpen(o.Path, err)
	}
	if badgercompat.OtherBadger != "" {
		s.log.Warn("a table that cannot be written while tables are merged would go unnoticed: build with Badger "+badgercompat.KnownBadger, "badger", badgercompat.OtherBadger)
	}
	s.snapshot = newSnapshot(s.db, &s.readers)
	s.compactions.Watch(s.db, s.reading) // compactions wait for this call, and closing waits for compactions
	if err := s.load(found.Mark); err != nil {
		return nil, errors.Join(err, s.db.Close())
	}
	if at, err := storefile.ReadLastBackup(o.Path); err != nil {
		s.log.Warn("when the store was last backed up is unknown", "path", o.Path, "error", err)
	} else if !at.IsZero() {
		s.lastBackup.Store(at.UnixMilli())
	}
	s.disk.Measure()
	s.visible.Lock()                      // a compaction may already read the snapshot
	s.show(newSnapshot(s.db, &s.readers)) // includes what load wrote
	s.visible.Unlock()
	if badgercompat.SyncsCommits && !o.unsynced {
		newest, err := storefile.NewestLog(o.Path)
		if err == nil {
			s.commitLog, err = badgercompat.OpenCommitLog(o.Path, newest, int(b.memtable))
		}
		if err != nil {
			return nil, errors.Join(err, s.db.Close())
		}
	}
	s.committed.Go(newCommitter(s).run)
	s.stopped.Go(s.sweep)
	s.stopped.Go(s.keepHighWater)
	s.stopped.Go(func() { s.verifyBehind(found) })
	return s, nil
}

// preflight inspects the files before Badger opens them, because Badger would truncate or
// delete damaged files, or crash. It returns what it found.
func (s *Store) preflight(ctx context.Context) (storefile.Inspection, error) {
	in, err := inspectLocked(ctx, s.o, s.bounds.verify)
	if err != nil {
		return in, err
	}
	for _, f := range in.Notes {
		s.log.Warn("the store was not closed in order", "path", s.o.Path, "file", f.Where, "found", f.What)
	}
	if len(in.Damage) > 0 && !s.o.trusting {
		return in, &storefile.DamageError{Path: s.o.Path, Findings: in.Damage}
	}
	return in, nil
}

// inspectLocked inspects a store while it holds the lock of the folder, so that no process
// can open the store.
func inspectLocked(ctx context.Context, o Options, most int64) (storefile.Inspection, error) {
	unlock, err := lockFolder(o.Path)
	if err != nil {
		return storefile.Inspection{}, err
	}
	defer unlock()
	in, err := storefile.Inspect(ctx, o.Path, o.EncryptionKey, most)
	if err != nil {
		return in, fmt.Errorf("looking at the store at %s: %w", o.Path, err)
	}
	return in, nil
}

// verifyBehind reads the tables that were not read before the store opened. It ends when
// the store stops. If a table is damaged, it latches the store, because the records cannot
// be trusted. Before a table is verified, only the checksums of its records are checked.
// verifyBehind uses at most half of one core.
func (s *Store) verifyBehind(in storefile.Inspection) {
	begun := time.Now()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for _, id := range in.Unverified {
		select {
		case <-pause.C:
		case <-s.stop:
			return
		}
		start := time.Now()
		err := in.VerifyTable(s.o.Path, id)
		switch {
		case errors.Is(err, fs.ErrNotExist): // the table was merged into others
		case err != nil: // Promise 5: damage is also found after the start.
			_ = s.latch(&storefile.DamageError{Path: s.o.Path, Findings: []storefile.Finding{{Where: storefile.TableName(id), What: err.Error()}}})
			s.wakeLanes()
			return
		}
		pause.Reset(time.Since(start))
	}
	if n := len(in.Unverified); n > 0 {
		s.log.Info("every table of the store is verified", "path", s.o.Path, "tables", n, "took", time.Since(begun).Round(time.Second).String())
	}
}

func (s *Store) badgerOptions() badger.Options {
	o := badger.DefaultOptions(s.o.Path).
		WithSyncWrites(!badgercompat.SyncsCommits && !s.o.unsynced). // otherwise the committer syncs
		WithValueThreshold(int64(s.bounds.maxValue())).
		WithMemTableSize(s.bounds.memtable).
		WithNumMemtables(badgercompat.NumMemtables).
		WithBaseTableSize(s.bounds.memtable * badgercompat.TableSize / badgercompat.MemTableSize).
		WithBaseLevelSize(s.bounds.memtable * badgercompat.BaseLevelSize / badgercompat.MemTableSize).
		WithNumLevelZeroTables(badgercompat.LevelZeroTables).
		WithBlockSize(blockSize).
		WithNumCompactors(2).
		WithValueLogFileSize(16 << 20). // the value log is empty: values stay in the tree
		// Badger measures a table by its compressed size, and keeps eight times the
		// memory that it took to build the largest one. With text that compresses
		// well that is gigabytes. Without compression, blocks are read directly
		// from the page cache, and the options limit the memory.
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithDetectConflicts(false). // the store has only one writer
		WithNumVersionsToKeep(1).
		WithMetricsEnabled(false).
		// The store verifies tables itself. Badger would read all of them before it
		// opens. If it checked blocks when it reads them, it would end iterations
		// early without an error, or crash (seen on v4.9.6).
		WithChecksumVerificationMode(options.NoVerification).
		WithLogger(badgercompat.Logger{Log: s.log, Failed: s.latch, Compactions: s.compactions})
	o.TableSizeMultiplier = 1 // tables of one size on every level
	if s.o.MaxDisk > 0 && s.o.MaxDisk <= smallStore {
		o.NumLevelZeroTables = smallLevelZeroTables
	}
	if len(s.o.EncryptionKey) > 0 {
		o = o.WithEncryptionKey(s.o.EncryptionKey).WithIndexCacheSize(s.bounds.indexCache).WithBlockCacheSize(s.bounds.blockCache)
	}
	return o
}

// flushLargerLogs turns the logs of a process with larger memtables into tables. Badger
// would read each log into a memtable, and panic if the memtable is too small.
func (s *Store) flushLargerLogs() error {
	files, err := storefile.List(s.o.Path)
	if err != nil {
		return err
	}
	memtable := s.bounds.memtable
	for _, name := range files.Logs {
		if info, err := os.Stat(filepath.Join(s.o.Path, name)); err == nil {
			memtable = max(memtable, info.Size()/2) // a log is mapped at twice the memtable's size
		}
	}
	if memtable == s.bounds.memtable {
		return nil
	}
	o := s.badgerOptions().WithMemTableSize(memtable).WithNumCompactors(0).WithNumLevelZeroTablesStall(math.MaxInt32)
	db, err := badger.Open(o.WithLogger(badgercompat.Logger{Log: s.log, Failed: s.latch}))
	if err != nil {
		return explainOpen(s.o.Path, err)
	}
	if err := db.Close(); err != nil {
		return fmt.Errorf("turning the logs of the store at %s into tables: %w", s.o.Path, err)
	}
	return nil
}

// explainOpen adds to Badger's error what to do.
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

// load reads the format, the counters and the webhooks. In a new store it writes the
// format.
func (s *Store) load(marked storefile.Mark) error {
	st := layout.State{}
	err := s.db.Update(func(txn *badger.Txn) error {
		f, err := getRecord(txn, layout.KeyFormat, func(_, rec []byte) (layout.Format, error) { return layout.DecodeFormat(rec) })
		switch {
		case errors.Is(err, badger.ErrKeyNotFound):
			if seq, err := newestSeq(txn); err != nil || seq != 0 {
				return errors.Join(err, fmt.Errorf("%w: the store holds events but no format record", layout.ErrDamaged))
			}
			f = layout.Format{Version: layout.FormatVersion, Tags: storefile.Tags{storefile.NewTag(0)}}
			if err := txn.Set(layout.KeyFormat, f.Encode()); err != nil {
				return err
			}
		case err != nil:
			return err
		default:
			if err := layout.Knows("store", f.Version); err != nil {
				return err
			}
		}
		s.tags, s.outdated, s.former = f.Tags, f.Version < layout.FormatVersion, f.Former
		st, err = getState(txn)
		switch {
		case errors.Is(err, badger.ErrKeyNotFound): // a new store
			st = layout.State{Counted: true}
		case err != nil:
			return err
		}
		if f.Version < layout.ProjectVersion {
			s.former = st.Seq
		}
		newest, err := newestSeq(txn)
		if err != nil {
			return err
		}
		if newest > st.Seq {
			return fmt.Errorf("%w: the counters end with event number %d, the events with %d", layout.ErrDamaged, st.Seq, newest)
		}
		scanKeys(txn, []byte{layout.PrefixErased}, nil, func([]byte) bool {
			s.erases.Store(true)
			return false
		})
		return s.loadWebhooks(txn, st.Changes)
	})
	if err != nil {
		return fmt.Errorf("reading the store at %s: %w", s.o.Path, err)
	}
	if err := s.db.Sync(); err != nil { // sync what opening wrote before the high-water mark counts it
		return explainOpen(s.o.Path, err)
	}
	s.clock.Resume(st.At, st.Shift)
	s.shown.Store(&st)
	s.redacted.Store(st.Redacted != 0)
	now := storefile.Mark{Seq: st.Seq, Commit: s.db.MaxVersion()}
	if (now.Seq < marked.Seq || now.Commit < marked.Commit) && !s.o.trusting {
		return &storefile.DamageError{Path: s.o.Path, Findings: []storefile.Finding{{Where: storefile.HighWaterFile, What: fmt.Sprintf(
			"event %d and transaction %d had been acknowledged; opened, the store ends with %d and %d", marked.Seq, marked.Commit, now.Seq, now.Commit)}}}
	}
	s.high, err = storefile.CreateHighWater(s.o.Path, now, s.tags)
	return err
}

func (s *Store) loadWebhooks(txn *badger.Txn, changes uint64) error {
	changed, err := getChanges(txn, changes)
	if err != nil {
		return err
	}
	return scan(txn, []byte{layout.PrefixWebhook}, nil, func(key, rec []byte) (bool, error) {
		w, err := layout.DecodeWebhook(key, rec)
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
			h.counts, h.shown, h.marks, h.written = c, c, m, maps.Clone(m.Due)
		}
		if d, lags := changed[w.ID]; lags {
			h.counts, h.lags = h.counts.Add(d), true
			h.shown = h.counts
		}
		s.webhooks[w.ID] = h
		return true, nil
	})
}

// getState reads the state record.
func getState(txn *badger.Txn) (layout.State, error) {
	return getRecord(txn, layout.KeyState, func(_, rec []byte) (layout.State, error) { return layout.DecodeState(rec) })
}

func getLane(txn *badger.Txn, id queue.WebhookID) (c queue.Counts, m layout.Marks, err error) {
	_, err = getRecord(txn, layout.LaneKey(id), func(key, rec []byte) (struct{}, error) {
		var err error
		c, m, err = layout.DecodeLane(key, rec)
		return struct{}{}, err
	})
	return c, m, err
}

// getChanges adds up what the first n records of changes changed in webhooks' counters.
func getChanges(txn *badger.Txn, n uint64) (map[queue.WebhookID]queue.Counts, error) {
	changed := make(map[queue.WebhookID]queue.Counts)
	for i := range n {
		changes, err := getRecord(txn, layout.ChangesKey(i), layout.DecodeChanges)
		if errors.Is(err, badger.ErrKeyNotFound) {
			err = fmt.Errorf("%w: the changes of the counters with number %d are missing", layout.ErrDamaged, i)
		}
		if err != nil {
			return nil, err
		}
		for _, c := range changes {
			changed[c.Webhook] = changed[c.Webhook].Add(c.Counts)
		}
	}
	return changed, nil
}

// newestSeq returns the highest sequence number of an event in the store, or 0 if there is
// none.
func newestSeq(txn *badger.Txn) (newest uint64, err error) {
	err = scanBack(txn, []byte{layout.PrefixEvent}, nil, func(key, _ []byte) (bool, error) {
		if len(key) != 9 {
			return true, nil
		}
		newest = layout.SeqOf(key)
		return false, nil
	})
	return newest, err
}

// RotateKey changes the key of an encrypted store that no process has open. The key
// encrypts the data keys, and the data keys encrypt the data. So the change takes no time,
// but a person with a copy of the old KEYREGISTRY and the old key can still read all data
// written until now. To encrypt everything again, restore a backup into a new store with
// another key.
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

// rewriteKeys replaces the key registry by a rename, so that a crash leaves either the old
// or the new registry.
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

// rotate changes the key if the store still has the previous one.
func (s *Store) rotate() error {
	if len(s.o.PreviousKey) == 0 {
		return nil
	}
	if _, err := storefile.ReadKeys(s.o.Path, s.o.EncryptionKey); !errors.Is(err, storefile.ErrKey) {
		return nil // the store is new, has the key already, or is damaged, which inspect reports
	}
	if _, err := storefile.ReadKeys(s.o.Path, s.o.PreviousKey); err != nil {
		return nil //nolint:nilerr // the store has neither key, and opening it reports that
	}
	if err := RotateKey(s.o.Path, s.o.PreviousKey, s.o.EncryptionKey); err != nil {
		return err
	}
	s.log.Info("the store has the new encryption key; the previous one is not needed any more", "path", s.o.Path)
	return nil
}

// lockFolder prevents other processes from opening a store until unlock.
func lockFolder(path string) (unlock func(), err error) {
	if unlock, err = storefile.Lock(path); errors.Is(err, storefile.ErrLocked) {
		err = inUse(path)
	}
	return unlock, err
}
