package badgerqueue

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"math"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/layout"
)

// getRecord reads and decodes one record. The record is valid only within decode. It
// returns badger.ErrKeyNotFound if there is no record.
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

// getDeliveries reads an event's deliveries. If there are none, the list is empty.
func getDeliveries(txn *badger.Txn, seq uint64) (deliveries, error) {
	ds, err := getRecord(txn, layout.DeliveriesKey(seq), func(key, rec []byte) (deliveries, error) {
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

// scan works as scanItems and passes keys and values. Both are valid only within visit.
func scan(txn *badger.Txn, prefix, start []byte, visit func(key, rec []byte) (bool, error)) error {
	return scanItems(txn, prefix, start, func(item *badger.Item) (bool, error) { return visitItem(item, visit) })
}

// scanKeys works as scanItems and passes only keys.
func scanKeys(txn *badger.Txn, prefix, start []byte, visit func(key []byte) bool) {
	_ = scanItems(txn, prefix, start, func(item *badger.Item) (bool, error) { return visit(item.Key()), nil })
}

// scanBack works as scan, but downwards: from the last key that is not above start.
func scanBack(txn *badger.Txn, prefix, start []byte, visit func(key, rec []byte) (bool, error)) error {
	o := badger.DefaultIteratorOptions
	o.Reverse, o.PrefetchValues = true, false
	it := txn.NewIterator(o)
	defer it.Close()
	if start == nil {
		start = layout.After(prefix)
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

// snapshot shows the store after one commit. Readers share it. A new transaction for each
// reader would wait for the running commit, and a commit may wait for room on the disk.
// Several goroutines may use one of Badger's read-only transactions at once, except for
// Discard.
type snapshot struct {
	txn  *badger.Txn
	uses atomic.Int64 // the number of readers, plus 1 while it is the store's newest
	in   *snapshots
}

// newSnapshot returns a snapshot with one use, which release ends.
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

// snapshots counts the snapshots in use, by the number of the transaction that they show.
type snapshots struct {
	mu   sync.Mutex // guards everything below; no other lock is taken under it
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

// oldest returns the oldest transaction that a snapshot in use shows.
func (s *snapshots) oldest() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	oldest := uint64(math.MaxUint64)
	for ts := range s.open {
		oldest = min(oldest, ts)
	}
	return oldest
}

// heldFeedback is what the store knows about a feedback.
type heldFeedback struct {
	layout.Feedback
	is     bool // the store has the feedback
	former bool // its record has a key of format 2
}

// key returns the key of the feedback's record.
func (h heldFeedback) key(id queue.FeedbackID) []byte {
	if h.former {
		return layout.FormerKey(id.ID)
	}
	return layout.FeedbackKey(id)
}

// lookUp finds a feedback. If the store has none, h.is is false and err is nil.
func (s *Store) lookUp(txn *badger.Txn, id queue.FeedbackID) (h heldFeedback, err error) {
	h.Feedback, err = getRecord(txn, layout.FeedbackKey(id), layout.DecodeFeedback)
	if errors.Is(err, badger.ErrKeyNotFound) {
		h.former = true
		h.Feedback, err = s.formerFeedback(txn, id)
	}
	if errors.Is(err, badger.ErrKeyNotFound) {
		return heldFeedback{}, nil
	}
	h.is = err == nil
	return h, err
}

// Format 2 identified a feedback by its id alone, with one F key for each id in any
// project. The functions below read these records. An F key counts only for the project of
// its event. The next change of that feedback replaces the F key by a G key.

// formerFeedback finds a feedback by its F key. It returns badger.ErrKeyNotFound if there
// is no such key, or if the key's event belongs to another project.
func (s *Store) formerFeedback(txn *badger.Txn, id queue.FeedbackID) (layout.Feedback, error) {
	if s.former == 0 {
		return layout.Feedback{}, badger.ErrKeyNotFound
	}
	seq, err := getRecord(txn, layout.FormerKey(id.ID), layout.DecodeSeq)
	if err != nil {
		return layout.Feedback{}, err
	}
	e, err := s.getHeader(txn, seq)
	switch {
	case errors.Is(err, queue.ErrNotFound):
		return layout.Feedback{}, badger.ErrKeyNotFound
	case err != nil:
		return layout.Feedback{}, err
	case e.Feedback != id: // Promise 6: an F key counts only for the project of its event.
		return layout.Feedback{}, badger.ErrKeyNotFound
	}
	return layout.Feedback{Seq: seq}, nil
}

// formerOrigin returns the hash of a submission that named its feedback's id itself. Format
// 2 kept the hash for a day, as an idempotency key. Zero means that there is none.
func formerOrigin(txn *badger.Txn, id queue.FeedbackID) (origin [32]byte, err error) {
	h := sha256.New()
	for _, part := range []string{"id", id.Project, id.ID} {
		inner := sha256.Sum256([]byte(part))
		h.Write(inner[:])
	}
	name := "id:" + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
	k, err := getRecord(txn, layout.IdempotencyKey(name), layout.DecodeIdempotency)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return origin, nil
	}
	return k.Hash, err
}
