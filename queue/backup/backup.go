// Package backup backs up queues whose engine has no backup of its own, and restores any
// backup into any engine.
//
// It promises that a backup holds everything that the engine exports, with all ids, so that
// an event, a delivery and what waits move from one engine to another and back. The form of
// a backup is that of badgerqueue: what comes from another engine is first written to a
// store in a temporary folder, which needs as much disk as the backup. The package knows
// no servers and no configuration. Its tests move a store from Badger to JetStream and back.
package backup

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue"
)

// Info counts what a backup holds.
type Info = badgerqueue.BackupInfo

// Options set where a temporary store is made, and the keys.
type Options struct {
	// Dir is a folder in which a temporary folder is made. Others must not be able to read
	// the temporary one.
	Dir string
	// Key encrypts what Write writes, and decrypts what Restore reads. It has 16, 24 or 32
	// bytes. The temporary store has the same key.
	Key []byte
}

// forever is a retention that removes nothing from a temporary store.
const forever = 100 * 365 * 24 * time.Hour

// Write backs up a queue while it works.
func Write(ctx context.Context, from queue.Exported, w io.Writer, o Options) (info Info, err error) {
	err = within(o, func(path string) error {
		n, err := badgerqueue.Create(path, o.Key)
		if err != nil {
			return err
		}
		err = from.Export(ctx, n)
		if err == nil {
			err = n.Finish()
		}
		if err = errors.Join(err, n.Discard()); err != nil {
			return err
		}
		return opened(ctx, path, o.Key, func(s *badgerqueue.Store) error {
			info, err = s.Backup(ctx, w)
			return err
		})
	})
	return info, err
}

// Restore reads a backup and passes its content to a sink. Nothing is passed on of a
// backup that is not complete.
func Restore(ctx context.Context, r io.Reader, to queue.Sink, o Options) (info Info, err error) {
	err = within(o, func(path string) error {
		if info, _, err = badgerqueue.Restore(ctx, r, badgerqueue.RestoreOptions{Path: path, EncryptionKey: o.Key}); err != nil {
			return err
		}
		return opened(ctx, path, o.Key, func(s *badgerqueue.Store) error { return s.Export(ctx, to) })
	})
	return info, err
}

// within calls do with the path of a temporary store.
func within(o Options, do func(path string) error) (err error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.Dir, "userhero-backup-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return do(filepath.Join(dir, "store"))
}

// opened calls do with the opened store.
func opened(ctx context.Context, path string, key []byte, do func(*badgerqueue.Store) error) error {
	s, err := badgerqueue.Open(ctx, badgerqueue.Options{Path: path, EncryptionKey: key, Retention: forever})
	if err != nil {
		return err
	}
	err = do(s)
	return errors.Join(err, s.Close(context.WithoutCancel(ctx)))
}
