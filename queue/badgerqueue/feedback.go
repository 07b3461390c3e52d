package badgerqueue

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/layout"
)

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
