package badgerqueue

import (
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

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
