// Package layout is how the store's data are laid out in Badger: the key of each record,
// and the records of the store's state, feedback, webhooks, lanes and idempotency keys.
//
// It promises that keys sort in the order in which the store reads them, that every record
// has a checksum over its key and value, and that reading any bytes returns a record or
// ErrDamaged. It knows the formats of older builds. It knows neither Badger nor the store,
// and not the records of events and deliveries, which package badgerqueue encodes. The
// tests of badgerqueue flip each bit of a record, fuzz what it reads, and open stores of
// each format.
package layout

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/codec"
)

// The key space. Numbers are big endian, so keys sort in the order of their numbers.
//
//	A seq8                       one event: header and the exact body, packed
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
//	M c n2                       what one commit changed in webhooks' counters
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
	PrefixEvent       = 'A'
	PrefixDeliveries  = 'B'
	PrefixAttempt     = 'C'
	PrefixFormer      = 'F'
	PrefixFeedback    = 'G'
	PrefixIdempotency = 'K'
	PrefixActivity    = 'L'
	prefixMeta        = 'M'
	PrefixWaiting     = 'R'
	PrefixWebhook     = 'W'
	PrefixEnded       = 'X'
	PrefixCaught      = 'H'
	PrefixErased      = 'E'
)

// The keys of single records.
var (
	KeyFormat = []byte("Mformat")
	KeyState  = []byte("Mstate")
	KeyFiller = []byte("Mfiller")
)

// SeqKey returns the key with a prefix and a number, such as an A or B key.
func SeqKey(prefix byte, seq uint64) []byte {
	k := make([]byte, 9)
	k[0] = prefix
	binary.BigEndian.PutUint64(k[1:], seq)
	return k
}

// EventKey returns the A key of an event.
func EventKey(seq uint64) []byte { return SeqKey(PrefixEvent, seq) }

// DeliveriesKey returns the B key of an event.
func DeliveriesKey(seq uint64) []byte { return SeqKey(PrefixDeliveries, seq) }

// SeqOf reads the sequence number of an A or B key.
func SeqOf(key []byte) uint64 { return binary.BigEndian.Uint64(key[1:]) }

// Waiting names one R or X key without its webhook and rung: a time and an event.
type Waiting struct {
	Due int64 // unix nanoseconds
	Seq uint64
}

// Less reports whether w sorts before o.
func (w Waiting) Less(o Waiting) bool {
	return w.Due < o.Due || w.Due == o.Due && w.Seq < o.Seq
}

// WaitingPrefix begins the R keys of a webhook.
func WaitingPrefix(w queue.WebhookID) []byte {
	k := make([]byte, 5, 22)
	k[0] = PrefixWaiting
	binary.BigEndian.PutUint32(k[1:], uint32(w))
	return k
}

// WaitingKey returns the R key of a delivery.
func WaitingKey(w queue.WebhookID, rung uint8, at Waiting) []byte {
	k := append(WaitingPrefix(w), rung)
	k = binary.BigEndian.AppendUint64(k, uint64(at.Due))
	return binary.BigEndian.AppendUint64(k, at.Seq)
}

// ParseWaitingKey reads an R key of 22 bytes. It does not return the rung.
func ParseWaitingKey(k []byte) (w queue.WebhookID, at Waiting, ok bool) {
	if len(k) != 22 || k[0] != PrefixWaiting {
		return 0, Waiting{}, false
	}
	return queue.WebhookID(binary.BigEndian.Uint32(k[1:])),
		Waiting{Due: int64(binary.BigEndian.Uint64(k[6:])), Seq: binary.BigEndian.Uint64(k[14:])}, true
}

// AttemptPrefix begins the C keys of a delivery.
func AttemptPrefix(seq uint64, w queue.WebhookID) []byte {
	k := make([]byte, 13, 15)
	k[0] = PrefixAttempt
	binary.BigEndian.PutUint64(k[1:], seq)
	binary.BigEndian.PutUint32(k[9:], uint32(w))
	return k
}

// AttemptKey returns the C key of an attempt.
func AttemptKey(seq uint64, w queue.WebhookID, number uint16) []byte {
	return binary.BigEndian.AppendUint16(AttemptPrefix(seq, w), number)
}

// longestProject is the length of the longest project that a key holds in full. Badger
// limits the length of keys, and projects have no limit, so for a longer project the key
// holds its hash.
const longestProject = 255

// FeedbackPrefix begins the keys of all feedback with this id.
func FeedbackPrefix(id string) []byte {
	k := make([]byte, 1, 1+binary.MaxVarintLen16+len(id)+binary.MaxVarintLen64+sha256.Size)
	k[0] = PrefixFeedback
	return codec.AppendString(k, id)
}

// FeedbackKey returns the G key of a feedback.
func FeedbackKey(f queue.FeedbackID) []byte {
	k := binary.AppendUvarint(FeedbackPrefix(f.ID), uint64(len(f.Project))) // Promise 6: project and id together identify feedback.
	if len(f.Project) <= longestProject {
		return append(k, f.Project...)
	}
	hash := sha256.Sum256([]byte(f.Project))
	return append(k, hash[:]...)
}

// ParseFeedbackKey reads a G key. known is false if the key holds only the hash of the
// project.
func ParseFeedbackKey(k []byte) (f queue.FeedbackID, known, ok bool) {
	r := codec.Reader{B: k[1:]}
	f.ID = r.String()
	length := r.Uvarint()
	switch {
	case r.Bad || k[0] != PrefixFeedback:
		return queue.FeedbackID{}, false, false
	case length > longestProject:
		return f, false, len(r.B) == sha256.Size
	}
	f.Project = string(r.B)
	return f, true, uint64(len(r.B)) == length
}

// FormerKey returns the key under which format 2 kept the latest event with this feedback
// id in any project.
func FormerKey(id string) []byte {
	return append([]byte{PrefixFormer}, id...)
}

// IdempotencyKey returns the K key of an idempotency key.
func IdempotencyKey(name string) []byte {
	return append([]byte{PrefixIdempotency}, name...)
}

// EndedKey returns the X key of an event.
func EndedKey(at Waiting) []byte {
	k := make([]byte, 1, 17)
	k[0] = PrefixEnded
	k = binary.BigEndian.AppendUint64(k, uint64(at.Due))
	return binary.BigEndian.AppendUint64(k, at.Seq)
}

// WebhookKey returns the W key of a webhook.
func WebhookKey(id queue.WebhookID) []byte {
	return binary.BigEndian.AppendUint32([]byte{PrefixWebhook}, uint32(id))
}

// LaneKey returns the key of a webhook's counters and cursors.
func LaneKey(id queue.WebhookID) []byte {
	return binary.BigEndian.AppendUint32(bytes.Clone(LanePrefix), uint32(id))
}

// LanePrefix and ChangesPrefix begin the keys of LaneKey and ChangesKey.
var (
	LanePrefix    = []byte("Mw")
	ChangesPrefix = []byte("Mc")
)

// ChangesKey returns the key of the record of what one commit changed in webhooks'
// counters. n numbers these commits: see State.Changes.
func ChangesKey(n uint64) []byte {
	return binary.BigEndian.AppendUint16(bytes.Clone(ChangesPrefix), uint16(n))
}

// ActivityKey returns the L key of an activity.
func ActivityKey(at int64, n uint32) []byte {
	k := make([]byte, 1, 13)
	k[0] = PrefixActivity
	k = binary.BigEndian.AppendUint64(k, uint64(at))
	return binary.BigEndian.AppendUint32(k, n)
}

// WellFormed reports whether a key has the shape of a key of the store.
func WellFormed(k []byte) bool {
	if len(k) == 0 {
		return false
	}
	switch k[0] {
	case PrefixEvent, PrefixDeliveries:
		return len(k) == 9
	case PrefixWaiting:
		return len(k) == 22
	case PrefixAttempt:
		return len(k) == 15
	case PrefixEnded:
		return len(k) == 17
	case PrefixWebhook:
		return len(k) == 5
	case PrefixCaught:
		return len(k) == 3
	case PrefixActivity:
		return len(k) == 13
	case PrefixFeedback:
		_, _, ok := ParseFeedbackKey(k)
		return ok
	case PrefixErased:
		return len(k) == 1+sha256.Size
	case PrefixFormer, PrefixIdempotency:
		return true
	case prefixMeta:
		return bytes.Equal(k, KeyFormat) || bytes.Equal(k, KeyState) || bytes.Equal(k, KeyFiller) ||
			len(k) == 6 && bytes.HasPrefix(k, LanePrefix) || len(k) == 4 && bytes.HasPrefix(k, ChangesPrefix)
	}
	return false
}

// After returns the first key that sorts after all keys with this prefix.
func After(prefix []byte) []byte {
	k := append([]byte(nil), prefix...)
	for i := len(k) - 1; i >= 0; i-- {
		if k[i]++; k[i] != 0 {
			return k[:i+1]
		}
	}
	return nil
}
