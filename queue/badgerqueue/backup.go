package badgerqueue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue/badgerqueue/layout"
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// BackupInfo counts what a backup holds.
type BackupInfo = storefile.BackupInfo

var (
	// ErrBackup marks a file that is not a complete backup.
	ErrBackup = storefile.ErrBackup
	// ErrBackupKey is returned if an encrypted backup cannot be read without its key.
	ErrBackupKey = storefile.ErrBackupKey
)

// Backup writes one snapshot of the whole store while the store continues to work. The
// backup of an encrypted store is encrypted with the same key. The backup of any other
// store is not encrypted and contains the webhooks' secrets. Backup returns
// queue.ErrClosed early if the store closes.
func (s *Store) Backup(ctx context.Context, w io.Writer) (BackupInfo, error) {
	info := BackupInfo{Encrypted: len(s.o.EncryptionKey) > 0}
	err := s.view(ctx, func(txn *badger.Txn) error {
		st, err := getState(txn)
		if err != nil && !errors.Is(err, badger.ErrKeyNotFound) {
			return err
		}
		info.Made, info.Newest = time.Now().UTC().Truncate(time.Millisecond), st.Seq
		bw, err := storefile.NewBackupWriter(w, s.o.EncryptionKey, storefile.BackupBegin{
			Format: layout.FormatVersion, Mark: storefile.Mark{Seq: st.Seq, Commit: txn.ReadTs()}, Made: info.Made,
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

// NoteBackup records that a backup of this store, made at a time, was read back and is
// complete. It does nothing if a newer backup is recorded already.
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

// RestoreOptions set where and how a backup is restored.
type RestoreOptions struct {
	// Path is the folder of the new store. It must not exist, or be empty.
	Path string
	// EncryptionKey encrypts the new store.
	EncryptionKey []byte
	// BackupKey decrypts an encrypted backup. It is the key that the store had when the
	// backup was made. Default: EncryptionKey.
	BackupKey []byte
	// Replace allows Restore to replace an existing store. Restore renames and keeps the
	// old store, and returns its new path. Other files in the folder are not touched.
	Replace bool
}

// Restore makes a store from a backup. It builds the store in a folder beside its place,
// and moves it there after the whole backup is read and on disk. So a damaged or truncated
// backup changes nothing. Events keep their ids. New events get a new tag, because the lost
// store may have used the next numbers.
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
	var f layout.Format
	var next uint64
	info, err = storefile.ReadBackup(r, o.BackupKey, func(begin storefile.BackupBegin) error {
		if err := layout.Knows("backup", begin.Format); err != nil {
			return err
		}
		next = begin.Mark.Seq + 1
		return nil
	}, func(key, rec []byte, expires uint64) (err error) {
		if string(key) == string(layout.KeyFormat) {
			f, err = layout.DecodeFormat(rec)
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
	if len(f.Tags) == 0 {
		return info, "", fmt.Errorf("%w: it holds no format record", ErrBackup)
	}
	f.Tags = append(f.Tags, storefile.NewTag(next))
	if err := b.set(layout.KeyFormat, f.Encode(), 0); err != nil {
		return info, "", err
	}
	if err := b.finish(info.Newest, f.Tags); err != nil {
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

// VerifyBackup reads a backup and returns an error if it is not complete. If the backup is
// encrypted and the key is missing, it returns ErrBackupKey.
func VerifyBackup(r io.Reader, key []byte) (BackupInfo, error) {
	return storefile.ReadBackup(r, key, func(storefile.BackupBegin) error { return nil }, func(_, _ []byte, _ uint64) error { return nil })
}
