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

// ReadAll passes every readable entry of every table and log to visit, even after a damaged
// part. It passes what cannot be read to lost. It also reads tables that the MANIFEST does
// not name, because a damaged MANIFEST may lack them. The entries of tables that were
// replaced are in other tables too. So visit may get the same entry several times, in any
// order.
//
// wrongKey is set if the key does not fit KEYREGISTRY: either the key is wrong, or the part
// of the registry that checks the key is damaged. ReadAll returns an error only if visit
// does, if files cannot be read, or if there is no store.
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
