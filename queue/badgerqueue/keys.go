package badgerqueue

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/codec"
)

// The key space. Numbers are big endian, so keys sort in the order of their numbers.
//
//	A seq8                       one event: header and the exact body
//	B seq8                       its deliveries, one small record; if they are few, also
//	                             each first attempt that succeeded
//	C seq8 webhook4 number2      one attempt, unless it is in B
//	E hash of a feedback         the time when the feedback was erased
//	F feedback id                seq8 of the latest event of that id in any project:
//	                             written by format 2, replaced when its feedback changes
//	G feedback id, project       the latest event of that feedback, and its origin
//	H place2                     a submission that a honeypot caught: time and document; expires
//	K idempotency key            seq8, hash and answer; expires
//	L at8 n4                     an activity
//	M name                       counters, cursors, format
//	M w webhook4                 a webhook's counters and cursors
//	R webhook4 rung1 due8 seq8   empty; a delivery that waits until it is due
//	W webhook4                   a webhook record
//	X ended8 seq8                an event that ended behind the sweep cursor
//
// Fresh deliveries have no key of their own: a lane reads B from its cursor. So accepting
// an event writes two records, however many webhooks take it. Only a delivery that waits
// on a rung needs a third record.
//
// Events take nearly all of the space. They sort first, in the order of their numbers. So
// the key range of a Badger table with new events does not overlap old events, and merging
// the table rewrites no old events.
const (
	prefixEvent       = 'A'
	prefixDeliveries  = 'B'
	prefixAttempt     = 'C'
	prefixFormer      = 'F'
	prefixFeedback    = 'G'
	prefixIdempotency = 'K'
	prefixActivity    = 'L'
	prefixMeta        = 'M'
	prefixWaiting     = 'R'
	prefixWebhook     = 'W'
	prefixEnded       = 'X'
	prefixCaught      = 'H'
	prefixErased      = 'E'
)

var (
	keyFormat = []byte("Mformat")
	keyState  = []byte("Mstate")
	keyFiller = []byte("Mfiller")
)

func seqKey(prefix byte, seq uint64) []byte {
	k := make([]byte, 9)
	k[0] = prefix
	binary.BigEndian.PutUint64(k[1:], seq)
	return k
}

func eventKey(seq uint64) []byte      { return seqKey(prefixEvent, seq) }
func deliveriesKey(seq uint64) []byte { return seqKey(prefixDeliveries, seq) }

// seqOf reads the sequence number of an A or B key.
func seqOf(key []byte) uint64 { return binary.BigEndian.Uint64(key[1:]) }

// waiting names one R or X key without its webhook and rung: a time and an event.
type waiting struct {
	due int64 // unix nanoseconds
	seq uint64
}

func (w waiting) less(o waiting) bool {
	return w.due < o.due || w.due == o.due && w.seq < o.seq
}

func waitingPrefix(w queue.WebhookID) []byte {
	k := make([]byte, 5, 22)
	k[0] = prefixWaiting
	binary.BigEndian.PutUint32(k[1:], uint32(w))
	return k
}

func waitingKey(w queue.WebhookID, rung uint8, at waiting) []byte {
	k := append(waitingPrefix(w), rung)
	k = binary.BigEndian.AppendUint64(k, uint64(at.due))
	return binary.BigEndian.AppendUint64(k, at.seq)
}

// parseWaitingKey reads an R key of 22 bytes. It does not return the rung.
func parseWaitingKey(k []byte) (w queue.WebhookID, at waiting, ok bool) {
	if len(k) != 22 || k[0] != prefixWaiting {
		return 0, waiting{}, false
	}
	return queue.WebhookID(binary.BigEndian.Uint32(k[1:])),
		waiting{due: int64(binary.BigEndian.Uint64(k[6:])), seq: binary.BigEndian.Uint64(k[14:])}, true
}

func attemptPrefix(seq uint64, w queue.WebhookID) []byte {
	k := make([]byte, 13, 15)
	k[0] = prefixAttempt
	binary.BigEndian.PutUint64(k[1:], seq)
	binary.BigEndian.PutUint32(k[9:], uint32(w))
	return k
}

func attemptKey(seq uint64, w queue.WebhookID, number uint16) []byte {
	return binary.BigEndian.AppendUint16(attemptPrefix(seq, w), number)
}

// longestProject is the length of the longest project that a key holds in full. Badger
// limits the length of keys, and projects have no limit, so for a longer project the key
// holds its hash.
const longestProject = 255

// feedbackPrefix begins the keys of all feedback with this id.
func feedbackPrefix(id string) []byte {
	k := make([]byte, 1, 1+binary.MaxVarintLen16+len(id)+binary.MaxVarintLen64+sha256.Size)
	k[0] = prefixFeedback
	return codec.AppendString(k, id)
}

func feedbackKey(f queue.FeedbackID) []byte {
	k := binary.AppendUvarint(feedbackPrefix(f.ID), uint64(len(f.Project))) // Promise 6: project and id together identify feedback.
	if len(f.Project) <= longestProject {
		return append(k, f.Project...)
	}
	hash := sha256.Sum256([]byte(f.Project))
	return append(k, hash[:]...)
}

// parseFeedbackKey reads a G key. known is false if the key holds only the hash of the
// project.
func parseFeedbackKey(k []byte) (f queue.FeedbackID, known, ok bool) {
	r := codec.Reader{B: k[1:]}
	f.ID = r.String()
	length := r.Uvarint()
	switch {
	case r.Bad || k[0] != prefixFeedback:
		return queue.FeedbackID{}, false, false
	case length > longestProject:
		return f, false, len(r.B) == sha256.Size
	}
	f.Project = string(r.B)
	return f, true, uint64(len(r.B)) == length
}

// formerKey returns the key under which format 2 kept the latest event with this feedback
// id in any project.
func formerKey(id string) []byte {
	return append([]byte{prefixFormer}, id...)
}

func idempotencyKey(name string) []byte {
	return append([]byte{prefixIdempotency}, name...)
}

func endedKey(at waiting) []byte {
	k := make([]byte, 1, 17)
	k[0] = prefixEnded
	k = binary.BigEndian.AppendUint64(k, uint64(at.due))
	return binary.BigEndian.AppendUint64(k, at.seq)
}

func webhookKey(id queue.WebhookID) []byte {
	return binary.BigEndian.AppendUint32([]byte{prefixWebhook}, uint32(id))
}

func laneKey(id queue.WebhookID) []byte {
	return binary.BigEndian.AppendUint32([]byte("Mw"), uint32(id))
}

func activityKey(at int64, n uint32) []byte {
	k := make([]byte, 1, 13)
	k[0] = prefixActivity
	k = binary.BigEndian.AppendUint64(k, uint64(at))
	return binary.BigEndian.AppendUint32(k, n)
}

// wellFormed reports whether a key has the shape of a key of the store.
func wellFormed(k []byte) bool {
	if len(k) == 0 {
		return false
	}
	switch k[0] {
	case prefixEvent, prefixDeliveries:
		return len(k) == 9
	case prefixWaiting:
		return len(k) == 22
	case prefixAttempt:
		return len(k) == 15
	case prefixEnded:
		return len(k) == 17
	case prefixWebhook:
		return len(k) == 5
	case prefixCaught:
		return len(k) == 3
	case prefixActivity:
		return len(k) == 13
	case prefixFeedback:
		_, _, ok := parseFeedbackKey(k)
		return ok
	case prefixErased:
		return len(k) == 1+sha256.Size
	case prefixFormer, prefixIdempotency:
		return true
	case prefixMeta:
		return bytes.Equal(k, keyFormat) || bytes.Equal(k, keyState) || bytes.Equal(k, keyFiller) || len(k) == 6 && k[1] == 'w'
	}
	return false
}

// after returns the first key that sorts after all keys with this prefix.
func after(prefix []byte) []byte {
	k := append([]byte(nil), prefix...)
	for i := len(k) - 1; i >= 0; i-- {
		if k[i]++; k[i] != 0 {
			return k[:i+1]
		}
	}
	return nil
}
