package badgerqueue

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
)

// Format 2 knew a feedback by its id alone: one F key for each id, whatever the
// project. What follows reads its records. An F key counts for the project of its
// event only; the next change of that feedback replaces it by a G key.

// projectOf reads the project from the document of an event. Documents have their
// members in order: data begins with id and projectId, as far as it has them.
func projectOf(document []byte) string {
	d := json.NewDecoder(bytes.NewReader(document))
	if !descend(d, "data") {
		return ""
	}
	for d.More() {
		name, err := d.Token()
		if err != nil || name != "id" && name != "projectId" {
			return ""
		}
		value, err := d.Token()
		if err != nil {
			return ""
		}
		if project, ok := value.(string); ok && name == "projectId" {
			return project
		}
	}
	return ""
}

// descend enters the object that a member of the next object holds.
func descend(d *json.Decoder, member string) bool {
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return false
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return false
		}
		if name == member {
			t, err := d.Token()
			return err == nil && t == json.Delim('{')
		}
		var passed json.RawMessage
		if d.Decode(&passed) != nil {
			return false
		}
	}
	return false
}

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
