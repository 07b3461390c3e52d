package badgerqueue

import (
	"errors"
	"reflect"
	"unsafe"

	"github.com/dgraph-io/badger/v4"
)

// leaveValueLog keeps Badger from syncing its value log at each commit, beside
// the memtable's log that the commit is in. Nothing of ours is ever written to
// it (batch.setFor refuses what would be), but syncing a file in which nothing
// has changed still makes the disk empty its cache: the first of two such waits
// a commit. Badger v4.9.6 has no option for it, so the field is set from here,
// before the first commit, whose goroutine is the only one to read it.
//
// Where Badger has no such field the log is synced as before, and a test fails.
func leaveValueLog(db *badger.DB) error {
	o, err := valueLogOptions(db)
	if err == nil {
		o.SyncWrites = false
	}
	return err
}

// valueLogOptions are those that the value log has for itself.
func valueLogOptions(db *badger.DB) (*badger.Options, error) {
	log := reflect.ValueOf(db).Elem().FieldByName("vlog")
	if log.Kind() == reflect.Struct {
		if o := log.FieldByName("opt"); o.IsValid() && o.Type() == reflect.TypeFor[badger.Options]() {
			return (*badger.Options)(unsafe.Pointer(o.UnsafeAddr())), nil
		}
	}
	return nil, errors.New("badger's value log has no options of its own")
}
