package badgerqueue

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue/badgerqueue/badgercompat"
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// build is a new store that Restore or Salvage writes, in a folder of its own. It is not
// used before it is finished.
type build struct {
	path   string
	db     *badger.DB
	writes *badger.WriteBatch
	store  *Store // for its options, its log and its disk
	bytes  int    // written since the free space was last read
}

const (
	// buildStep is how many bytes are written before the free space is read again.
	buildStep = 1 << 20
	// reserveBuild is the free space below which nothing more is written. Badger's running
	// work takes at most badgercompat.ReserveTable of it, and closing needs the rest.
	reserveBuild = badgercompat.ReserveAccept + badgercompat.ReserveTable
)

// newBuild makes the folder. With versions, each record is written with the number of its
// transaction, and the highest number wins. Errors of newBuild and of the build's methods
// wrap queue.ErrFull if the disk has no room.
func newBuild(path string, key []byte, versions bool) (*build, error) {
	disk, err := badgercompat.NewDisk(badgercompat.FileSystemOf, path, reserveBuild, 0)
	if err == nil {
		err = disk.RoomToAccept()
	}
	if err != nil {
		return nil, fmt.Errorf("making a new store: %w", err)
	}
	if err := os.Mkdir(path, 0o700); errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%s is there already, from an attempt that was interrupted: remove it and try again", path)
	} else if err != nil {
		return nil, fmt.Errorf("making a new store: %w", err)
	}
	b := &build{path: path, store: &Store{bounds: defaultBounds, o: Options{Path: path, EncryptionKey: key}, log: slog.New(slog.DiscardHandler), disk: disk}}
	if err := b.openBadger(versions); err != nil {
		return nil, errors.Join(err, b.discard())
	}
	return b, nil
}

func (b *build) openBadger(versions bool) (err error) {
	b.store.compactions = badgercompat.NewCompactions(b.store.disk, b.store.latch, func(string) error { return nil }) // the store is not used yet
	o := b.store.badgerOptions().WithSyncWrites(false)                                                                // everything is synced at the end, or deleted
	if versions {
		b.db, err = badger.OpenManaged(o)
	} else {
		b.db, err = badger.Open(o)
	}
	if err != nil {
		return fmt.Errorf("making a new store: %w", err)
	}
	txn := b.read(versions)
	b.store.compactions.Watch(b.db, func() (*badger.Txn, func()) { return txn, func() {} })
	if versions {
		b.writes = b.db.NewManagedWriteBatch()
	} else {
		b.writes = b.db.NewWriteBatch()
	}
	return nil
}

// read returns a transaction that keeps tables open while they are merged.
func (b *build) read(versions bool) *badger.Txn {
	if versions {
		return b.db.NewTransactionAt(math.MaxUint64, false)
	}
	return b.db.NewTransaction(false)
}

// room reads the free space once every buildStep bytes. Badger writes through memory maps,
// so the process would die on a full disk.
func (b *build) room(key, rec []byte) error {
	if b.bytes += len(key) + len(rec); b.bytes < buildStep {
		return nil
	}
	b.bytes = 0
	if err := b.store.disk.RoomToAccept(); err != nil {
		return fmt.Errorf("writing the new store: %w", err)
	}
	return nil
}

// close makes Badger flush its memtables and close, if the disk has room for that.
func (b *build) close() error {
	if !b.store.disk.RoomToClose() {
		return b.store.disk.Full()
	}
	err := errors.Join(b.db.Close(), b.store.failure())
	b.db = nil
	return err
}

// set writes a record; key and rec are copied.
func (b *build) set(key, rec []byte, expires uint64) error {
	if err := b.room(key, rec); err != nil {
		return err
	}
	e := badger.NewEntry(append([]byte(nil), key...), append([]byte(nil), rec...))
	e.ExpiresAt = expires
	if err := b.writes.SetEntry(e); err != nil {
		return fmt.Errorf("writing the new store: %w", err)
	}
	return nil
}

// setAt writes a record, or its deletion, with the number of its transaction.
func (b *build) setAt(key, rec []byte, expires, version uint64, deleted bool) (err error) {
	if err := b.room(key, rec); err != nil {
		return err
	}
	key = append([]byte(nil), key...)
	if deleted {
		err = b.writes.DeleteAt(key, version)
	} else {
		e := badger.NewEntry(key, append([]byte(nil), rec...))
		e.ExpiresAt = expires
		err = b.writes.SetEntryAt(e, version)
	}
	if err != nil {
		return fmt.Errorf("writing the new store: %w", err)
	}
	return nil
}

// delete removes a record.
func (b *build) delete(key []byte) error {
	if err := b.writes.Delete(append([]byte(nil), key...)); err != nil {
		return fmt.Errorf("writing the new store: %w", err)
	}
	return nil
}

// reopen closes the store and opens it without versions. Records that are written after
// that are newer than all earlier ones.
func (b *build) reopen() error {
	err := b.writes.Flush()
	if err == nil {
		err = b.close()
	}
	if err != nil {
		return fmt.Errorf("writing the new store: %w", err)
	}
	return b.openBadger(false)
}

// finish closes the store and writes its high-water mark. seq is the newest event.
func (b *build) finish(seq uint64, t storefile.Tags) error {
	if err := b.writes.Flush(); err != nil {
		return fmt.Errorf("writing the new store: %w", err)
	}
	m := storefile.Mark{Seq: seq, Commit: b.db.MaxVersion()}
	if err := b.close(); err != nil {
		return fmt.Errorf("closing the new store: %w", err)
	}
	h, err := storefile.CreateHighWater(b.path, m, t)
	if err != nil {
		return err
	}
	return h.Close()
}

// moveTo puts the finished store in its place.
func (b *build) moveTo(path string) error {
	_ = os.Remove(path) // an empty folder may be there
	if err := os.Rename(b.path, path); err != nil {
		return fmt.Errorf("moving the new store to its place: %w", err)
	}
	b.path = ""
	return storefile.SyncFolder(filepath.Dir(path))
}

// discard removes the folder if it was not moved.
func (b *build) discard() error {
	if b.path == "" {
		return nil
	}
	if b.db != nil && b.store.disk.RoomToClose() { // otherwise Badger stays open, without its files
		if b.writes != nil {
			b.writes.Cancel()
		}
		_ = b.db.Close()
	}
	b.db = nil
	return os.RemoveAll(b.path)
}
