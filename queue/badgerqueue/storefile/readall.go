package storefile

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"

	"github.com/dgraph-io/badger/v4"
)

// ReadAll hands out every entry of every table and log that can be read, also behind
// a damage, and says what cannot be read to lost. Tables that the MANIFEST does not
// name are read too: it may have forgotten them, and if it has not, their entries are
// in others as well. So one entry may come several times, in any order.
//
// wrongKey reports that the key does not fit KEYREGISTRY: it is another, or the
// registry is damaged where nothing depends on it. An error is visit's, or that there
// is no store.
func ReadAll(dir string, encryptionKey []byte, visit func(Entry) error, lost func(where, what string)) (wrongKey bool, err error) {
	files, err := List(dir)
	if err != nil {
		return false, err
	}
	if !files.Any {
		return false, errors.New("there is no store")
	}
	keys, err := ReadKeys(dir, encryptionKey)
	wrongKey = errors.Is(err, ErrKey)
	if err != nil && (len(encryptionKey) > 0 || !errors.Is(err, fs.ErrNotExist)) {
		lost(badger.KeyRegistryFileName, err.Error())
	}
	unread := func(name string, err error) error {
		if errors.Is(err, ErrDamaged) || errors.Is(err, ErrKey) {
			lost(name, err.Error())
			return nil
		}
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(files.Tables)) {
		name := files.Tables[id]
		t, err := ReadAnyTable(filepath.Join(dir, name), keys, visit)
		for _, block := range t.Lost {
			lost(name, block)
		}
		if err := unread(name, err); err != nil {
			return wrongKey, err
		}
	}
	for _, name := range files.Logs {
		l, err := ReadLog(filepath.Join(dir, name), keys, visit)
		if len(l.Beyond) > 0 {
			lost(name, fmt.Sprintf("unreadable from byte %d on; %d finished transactions behind that were read where they can be", l.End, len(l.Beyond)))
		}
		if err := unread(name, err); err != nil {
			return wrongKey, err
		}
	}
	if m, err := ReadManifest(dir); err == nil {
		for _, id := range slices.Sorted(maps.Keys(m.Tables)) {
			if _, there := files.Tables[id]; !there {
				lost(TableName(id), "is missing")
			}
		}
	}
	return wrongKey, nil
}
