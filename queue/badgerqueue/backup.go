package badgerqueue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// BackupInfo says what a backup holds.
type BackupInfo = storefile.BackupInfo

var (
	// ErrBackup marks a file that is no whole backup.
	ErrBackup = storefile.ErrBackup
	// ErrBackupKey says that an encrypted backup cannot be read without a key.
	ErrBackupKey = storefile.ErrBackupKey
)

// Backup writes everything the store holds, as of one moment, while it goes on
// working. The backup of an encrypted store is encrypted with the same key; that
// of another one has everything in the clear, the webhooks' secrets among it.
// It ends early with queue.ErrClosed when the store closes.
func (s *Store) Backup(ctx context.Context, w io.Writer) (BackupInfo, error) {
	info := BackupInfo{Encrypted: len(s.o.EncryptionKey) > 0}
	err := s.view(ctx, func(txn *badger.Txn) error {
		st, err := getRecord(txn, keyState, func(_, rec []byte) (state, error) { return decodeState(rec) })
		if err != nil && !errors.Is(err, badger.ErrKeyNotFound) {
			return err
		}
		info.Made, info.Newest = time.Now().UTC().Truncate(time.Millisecond), st.seq
		bw, err := storefile.NewBackupWriter(w, s.o.EncryptionKey, storefile.BackupBegin{
			Format: formatVersion, Mark: storefile.Mark{Seq: st.seq, Commit: txn.ReadTs()}, Made: info.Made,
		})
		if err != nil {
			return err
		}
		it := txn.NewIterator(badger.DefaultIteratorOptions)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			item := it.Item()
			var full bool
			err := item.Value(func(rec []byte) error {
				var err error
				full, err = bw.Record(item.Key(), rec, item.ExpiresAt())
				return err
			})
			if err == nil && full {
				err = s.going(ctx)
			}
			if err != nil {
				return err
			}
		}
		info.Records = int64(bw.Records)
		return bw.End()
	})
	if err != nil {
		return info, fmt.Errorf("backing up the store at %s: %w", s.o.Path, err)
	}
	return info, nil
}

// NoteBackup records that a backup of this store, made at a time, was read back whole.
// An older backup than the one recorded changes nothing.
func (s *Store) NoteBackup(at time.Time) error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end()
	s.notingBackup.Lock()
	defer s.notingBackup.Unlock()
	if at.UnixMilli() <= s.lastBackup.Load() {
		return nil
	}
	if err := storefile.WriteLastBackup(s.o.Path, at); err != nil {
		return err
	}
	s.lastBackup.Store(at.UnixMilli())
	return nil
}

// LastBackup implements queue.BackedUp.
func (s *Store) LastBackup() time.Time {
	if at := s.lastBackup.Load(); at != 0 {
		return time.UnixMilli(at).UTC()
	}
	return time.Time{}
}

// RestoreOptions say where a backup goes.
type RestoreOptions struct {
	// Path is the folder of the new store. It must not exist, or be empty.
	Path string
	// EncryptionKey encrypts the new store.
	EncryptionKey []byte
	// BackupKey opens an encrypted backup: it is the key that the store had when it
	// was backed up. Default: EncryptionKey.
	BackupKey []byte
	// Replace puts the new store in the place of one that is there, which is
	// renamed and kept; where it is now is returned. Files in its folder that are
	// not the store's stay in their place.
	Replace bool
}

// Restore makes a store of a backup. The store is built beside its place and
// moved there when all of the backup has been read and is on disk, so a backup
// that is damaged or cut leaves everything as it was. Events keep their ids; new
// ones get a new tag, for the lost store may have given the next numbers.
func Restore(ctx context.Context, r io.Reader, o RestoreOptions) (info BackupInfo, kept string, err error) {
	path, err := filepath.Abs(o.Path)
	if err != nil {
		return info, "", err
	}
	path = storefile.Folder(path)
	if err := storefile.CompleteRestore(path); err != nil {
		return info, "", err
	}
	occupied, err := storefile.Occupied(path)
	if err != nil {
		return info, "", err
	}
	if occupied {
		if !o.Replace {
			return info, "", fmt.Errorf("%s is not empty: restore into a new folder, or say that what is there is to be replaced", path)
		}
		unlock, err := lockFolder(path)
		if err != nil {
			return info, "", err
		}
		defer unlock()
	}
	if len(o.BackupKey) == 0 {
		o.BackupKey = o.EncryptionKey
	}
	b, err := newBuild(path+storefile.Restoring, o.EncryptionKey, false)
	if err != nil {
		return info, "", err
	}
	defer func() { err = errors.Join(err, b.discard()) }()
	var f format
	var next uint64
	info, err = storefile.ReadBackup(r, o.BackupKey, func(begin storefile.BackupBegin) error {
		if err := knows("backup", begin.Format); err != nil {
			return err
		}
		next = begin.Mark.Seq + 1
		return nil
	}, func(key, rec []byte, expires uint64) (err error) {
		if string(key) == string(keyFormat) {
			f, err = decodeFormat(rec)
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		return b.set(key, rec, expires)
	})
	if err != nil {
		return info, "", err
	}
	if len(f.tags) == 0 {
		return info, "", fmt.Errorf("%w: it holds no format record", ErrBackup)
	}
	f.tags = append(f.tags, storefile.NewTag(next))
	if err := b.set(keyFormat, f.encode(), 0); err != nil {
		return info, "", err
	}
	if err := b.finish(info.Newest, f.tags); err != nil {
		return info, "", err
	}
	if err := storefile.CloseFiles(b.path); err != nil {
		return info, "", err
	}
	if occupied {
		if kept, err = storefile.ReplaceWith(b.path, path); err == nil {
			b.path = ""
		}
		return info, kept, err
	}
	if err := storefile.Adopt(b.path, storefile.Nearest(path)); err != nil {
		return info, "", err
	}
	return info, "", b.moveTo(path)
}

// VerifyBackup reads a backup and reports whether it is whole. Of an encrypted one
// without its key only that it is encrypted can be told: ErrBackupKey.
func VerifyBackup(r io.Reader, key []byte) (BackupInfo, error) {
	return storefile.ReadBackup(r, key, func(storefile.BackupBegin) error { return nil }, func(_, _ []byte, _ uint64) error { return nil })
}
