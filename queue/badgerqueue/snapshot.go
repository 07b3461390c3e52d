package badgerqueue

import (
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
)

// snapshot is the store as one commit left it. Readers share it: a transaction of
// their own would wait for the commit under way, and a commit may wait for room on
// the disk. Badger's read-only transactions may be used by several goroutines at
// once, apart from Discard.
type snapshot struct {
	txn  *badger.Txn
	uses atomic.Int64 // readers, and the store while it is the newest
}

// newSnapshot is used by the store, until release.
func newSnapshot(db *badger.DB) *snapshot {
	s := &snapshot{txn: db.NewTransaction(false)}
	s.uses.Store(1)
	return s
}

// release ends one use.
func (s *snapshot) release() {
	if s.uses.Add(-1) == 0 {
		s.txn.Discard()
	}
}

// show makes a snapshot the newest; visible is held.
func (s *Store) show(newest *snapshot) {
	s.snapshot.release()
	s.snapshot = newest
}

// newestLocked is the newest snapshot, to be released; visible is held.
func (s *Store) newestLocked() *snapshot {
	s.snapshot.uses.Add(1)
	return s.snapshot
}

// newest is the newest snapshot, to be released.
func (s *Store) newest() *snapshot {
	s.visible.Lock()
	defer s.visible.Unlock()
	return s.newestLocked()
}

// reading returns the transaction of the newest snapshot, until release. It never
// waits for a commit.
func (s *Store) reading() (txn *badger.Txn, release func()) {
	newest := s.newest()
	return newest.txn, newest.release
}
