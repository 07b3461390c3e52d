package badgerqueue

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
)

// heldFeedback is what the store knows about a feedback.
type heldFeedback struct {
	feedback
	is     bool // the store has it
	former bool // under a key of format 2
}

// key is where the store keeps it.
func (h heldFeedback) key(id queue.FeedbackID) []byte {
	if h.former {
		return formerKey(id.ID)
	}
	return feedbackKey(id)
}

// lookUp finds a feedback. If the store has none, h.is is false and err is nil.
func (s *Store) lookUp(txn *badger.Txn, id queue.FeedbackID) (h heldFeedback, err error) {
	h.feedback, err = getRecord(txn, feedbackKey(id), decodeFeedback)
	if errors.Is(err, badger.ErrKeyNotFound) {
		h.former = true
		h.feedback, err = s.formerFeedback(txn, id)
	}
	if errors.Is(err, badger.ErrKeyNotFound) {
		return heldFeedback{}, nil
	}
	h.is = err == nil
	return h, err
}

// Format 2 knew a feedback by its id alone: one F key for each id in any project. The
// functions below read its records. An F key counts only for the project of its
// event, and the next change of that feedback replaces it by a G key.

// formerFeedback finds a feedback by its F key; badger.ErrKeyNotFound if there is
// none, or if it is another project's.
func (s *Store) formerFeedback(txn *badger.Txn, id queue.FeedbackID) (feedback, error) {
	if s.former == 0 {
		return feedback{}, badger.ErrKeyNotFound
	}
	seq, err := getRecord(txn, formerKey(id.ID), decodeSeq)
	if err != nil {
		return feedback{}, err
	}
	e, err := s.getEvent(txn, seq)
	switch {
	case errors.Is(err, queue.ErrNotFound):
		return feedback{}, badger.ErrKeyNotFound
	case err != nil:
		return feedback{}, err
	case e.Feedback != id: // Promise 6: an old key counts for the project of its event only.
		return feedback{}, badger.ErrKeyNotFound
	}
	return feedback{seq: seq}, nil
}

// formerOrigin is the hash that format 2 kept of a submission with an id of its
// own: for a day, as an idempotency key. Zero is none.
func formerOrigin(txn *badger.Txn, id queue.FeedbackID) (origin [32]byte, err error) {
	h := sha256.New()
	for _, part := range []string{"id", id.Project, id.ID} {
		inner := sha256.Sum256([]byte(part))
		h.Write(inner[:])
	}
	name := "id:" + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
	k, err := getRecord(txn, idempotencyKey(name), decodeIdempotency)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return origin, nil
	}
	return k.hash, err
}
