package badgerqueue

import (
	"bytes"
	"errors"
	"math"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
)

// getRecord reads and decodes one record. The record is valid only within
// decode. It returns badger.ErrKeyNotFound where there is none.
func getRecord[T any](txn *badger.Txn, key []byte, decode func(key, rec []byte) (T, error)) (T, error) {
	var v T
	item, err := txn.Get(key)
	if err != nil {
		return v, err
	}
	err = item.Value(func(rec []byte) error {
		var err error
		v, err = decode(key, rec)
		return err
	})
	return v, err
}

// getDeliveries reads an event's deliveries; none is an empty list.
func getDeliveries(txn *badger.Txn, seq uint64) (deliveries, error) {
	ds, err := getRecord(txn, deliveriesKey(seq), func(key, rec []byte) (deliveries, error) {
		ds, err := decodeDeliveries(nil, key, rec)
		for i := range ds {
			ds[i].log = bytes.Clone(ds[i].log)
		}
		return ds, err
	})
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, nil
	}
	return ds, err
}

// scanItems calls visit with the item of every key of a prefix, from start on, or from
// the first key of the prefix if start is nil, until visit returns false or an error.
// The item is valid only within visit.
func scanItems(txn *badger.Txn, prefix, start []byte, visit func(item *badger.Item) (bool, error)) error {
	o := badger.DefaultIteratorOptions
	o.Prefix, o.PrefetchValues = prefix, false
	it := txn.NewIterator(o)
	defer it.Close()
	if start == nil {
		start = prefix
	}
	for it.Seek(start); it.ValidForPrefix(prefix); it.Next() {
		on, err := visit(it.Item())
		if err != nil || !on {
			return err
		}
	}
	return nil
}

// scan is scanItems with keys and values. Both are valid only within visit.
func scan(txn *badger.Txn, prefix, start []byte, visit func(key, rec []byte) (bool, error)) error {
	return scanItems(txn, prefix, start, func(item *badger.Item) (bool, error) { return visitItem(item, visit) })
}

// scanKeys is scanItems with keys.
func scanKeys(txn *badger.Txn, prefix, start []byte, visit func(key []byte) bool) {
	_ = scanItems(txn, prefix, start, func(item *badger.Item) (bool, error) { return visit(item.Key()), nil })
}

// scanBack is scan downwards: from the last key that is not above start.
func scanBack(txn *badger.Txn, prefix, start []byte, visit func(key, rec []byte) (bool, error)) error {
	o := badger.DefaultIteratorOptions
	o.Reverse, o.PrefetchValues = true, false
	it := txn.NewIterator(o)
	defer it.Close()
	if start == nil {
		start = after(prefix)
	}
	for it.Seek(start); it.Valid(); it.Next() {
		item := it.Item()
		if !bytes.HasPrefix(item.Key(), prefix) {
			if bytes.Compare(item.Key(), prefix) < 0 {
				return nil
			}
			continue
		}
		on, err := visitItem(item, visit)
		if err != nil || !on {
			return err
		}
	}
	return nil
}

func visitItem(item *badger.Item, visit func(key, rec []byte) (bool, error)) (on bool, err error) {
	err = item.Value(func(rec []byte) error {
		on, err = visit(item.Key(), rec)
		return err
	})
	return on, err
}

// snapshot is the store as one commit left it. Readers share it: a transaction of
// their own would wait for the commit under way, and a commit may wait for room on
// the disk. Badger's read-only transactions may be used by several goroutines at
// once, apart from Discard.
type snapshot struct {
	txn  *badger.Txn
	uses atomic.Int64 // readers, and the store while it is the newest
	in   *snapshots
}

// newSnapshot is used by the store, until release.
func newSnapshot(db *badger.DB, in *snapshots) *snapshot {
	s := &snapshot{txn: db.NewTransaction(false), in: in}
	s.uses.Store(1)
	in.count(s.txn.ReadTs(), 1)
	return s
}

// release ends one use.
func (s *snapshot) release() {
	if s.uses.Add(-1) == 0 {
		s.in.count(s.txn.ReadTs(), -1)
		s.txn.Discard()
	}
}

// snapshots counts the snapshots that are in use, by the transaction that they show.
type snapshots struct {
	mu   sync.Mutex // guards what follows; no other lock is taken under it
	open map[uint64]int
}

func (s *snapshots) count(ts uint64, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = make(map[uint64]int)
	}
	if s.open[ts] += n; s.open[ts] == 0 {
		delete(s.open, ts)
	}
}

// oldest is the oldest transaction that a snapshot shows.
func (s *snapshots) oldest() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	oldest := uint64(math.MaxUint64)
	for ts := range s.open {
		oldest = min(oldest, ts)
	}
	return oldest
}
