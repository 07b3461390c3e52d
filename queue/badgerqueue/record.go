package badgerqueue

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/codec"
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// Every record begins with a version byte and the CRC-32C of its key and of the rest of
// its value. So a reader notices a record that is damaged or has the wrong key. Badger
// checks blocks of tables when it opens them, but not the data that it replays from memory
// or reads from a cache.
const (
	recordVersion = 1
	recordHeader  = 1 + 4
)

// formatVersion is the version of the whole layout. A store with formerVersion is read
// without conversion. Its first commit writes formatVersion; after that, builds that know
// only formerVersion refuse the store.
const (
	formatVersion = 3
	formerVersion = 2
)

// knows returns an error if this build does not know the format of a store or a backup.
func knows(what string, version uint64) error {
	switch {
	case version > formatVersion:
		return fmt.Errorf("the %s has format %d and this build knows format %d: use a newer build", what, version, formatVersion)
	case version < formerVersion:
		return fmt.Errorf("the %s has format %d, of builds before the first release, and this build knows format %d:"+
			" let the build that made it deliver what waits, and begin a new one", what, version, formatVersion)
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errDamaged marks a record with a wrong checksum or shape.
var errDamaged = errors.New("damaged record")

// record starts a value with room for the header. The caller appends the payload.
func record(size int) []byte {
	return append(make([]byte, 0, recordHeader+size), recordVersion, 0, 0, 0, 0)
}

// seal writes the checksum into a finished record.
func seal(key, rec []byte) []byte {
	binary.BigEndian.PutUint32(rec[1:], checksum(key, rec[recordHeader:]))
	return rec
}

func checksum(key, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, payload)
}

// unseal checks a record and returns its payload.
func unseal(key, rec []byte) ([]byte, error) {
	if len(rec) < recordHeader {
		return nil, fmt.Errorf("%w %q: %d bytes", errDamaged, key, len(rec))
	}
	if rec[0] != recordVersion {
		return nil, fmt.Errorf("%w %q: version %d, this build reads version %d", errDamaged, key, rec[0], recordVersion)
	}
	if binary.BigEndian.Uint32(rec[1:]) != checksum(key, rec[recordHeader:]) { // Promise 5: every record has a checksum over its key and value.
		return nil, fmt.Errorf("%w %q: checksum mismatch", errDamaged, key)
	}
	return rec[recordHeader:], nil
}

// idempotency is a K record.
type idempotency struct {
	// seq is the number of the event. If the submission stored no event, seq is the number
	// of the feedback's latest event, with the flag withoutEvent; older builds wrote 0. If
	// the event was erased, seq is erasedSeq.
	seq    uint64
	hash   [32]byte
	answer []byte // format 2 did not store it: the event determines it
}

// withoutEvent marks the key of a submission that stored no event.
const withoutEvent = 1 << 63

// about returns the event that the submission stored, or the one that it left unchanged.
func (k idempotency) about() uint64 { return k.seq &^ withoutEvent }

// event returns the event that the submission stored, or 0 if it stored none.
func (k idempotency) event() uint64 {
	if k.seq&withoutEvent != 0 {
		return 0
	}
	return k.seq
}

func (k idempotency) encode(key []byte) []byte {
	b := binary.BigEndian.AppendUint64(record(40+len(k.answer)), k.seq)
	b = append(b, k.hash[:]...)
	return seal(key, append(b, k.answer...))
}

func decodeIdempotency(key, rec []byte) (k idempotency, err error) {
	p, err := unseal(key, rec)
	if err != nil {
		return k, err
	}
	if len(p) < 40 {
		return k, fmt.Errorf("%w %q: %d bytes of idempotency key", errDamaged, key, len(p))
	}
	k.seq = binary.BigEndian.Uint64(p)
	copy(k.hash[:], p[8:])
	k.answer = bytes.Clone(p[40:])
	return k, nil
}

// feedback is a G record.
type feedback struct {
	seq uint64 // number of its latest event
	// origin is a hash of the submission that created the feedback, and answer is the
	// answer to it. If origin is empty, no submission counts as its repeat.
	origin [32]byte
	answer []byte
}

// appendTo appends the payload.
func (f feedback) appendTo(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, f.seq)
	if f.origin == [32]byte{} {
		return b
	}
	return append(append(b, f.origin[:]...), f.answer...)
}

func (f feedback) encode(key []byte) []byte {
	return seal(key, f.appendTo(record(8+len(f.origin)+len(f.answer))))
}

func decodeFeedback(key, rec []byte) (f feedback, err error) {
	p, err := unseal(key, rec)
	if err != nil {
		return f, err
	}
	if n := len(p); n != 8 && n < 8+len(f.origin) {
		return f, fmt.Errorf("%w %q: %d bytes of feedback", errDamaged, key, n)
	}
	f.seq = binary.BigEndian.Uint64(p)
	if copy(f.origin[:], p[8:]); f.origin != [32]byte{} {
		f.answer = bytes.Clone(p[8+len(f.origin):])
	}
	return f, nil
}

func decodeSeq(key, rec []byte) (uint64, error) {
	p, err := unseal(key, rec)
	if err != nil {
		return 0, err
	}
	if len(p) != 8 {
		return 0, fmt.Errorf("%w %q: %d bytes of sequence number", errDamaged, key, len(p))
	}
	return binary.BigEndian.Uint64(p), nil
}

func encodeWebhook(key []byte, w queue.Webhook) []byte {
	b := record(64 + len(w.Data))
	b = codec.AppendString(b, w.Name)
	b = binary.AppendUvarint(b, w.Revision)
	b = codec.AppendBool(b, w.Expires)
	b = codec.AppendString(b, w.Data)
	return seal(key, b)
}

func decodeWebhook(key, rec []byte) (queue.Webhook, error) {
	p, err := unseal(key, rec)
	if err != nil {
		return queue.Webhook{}, err
	}
	r := codec.Reader{B: p}
	w := queue.Webhook{ID: queue.WebhookID(binary.BigEndian.Uint32(key[1:]))}
	w.Name = r.String()
	w.Revision = r.Uvarint()
	w.Expires = r.Bool()
	w.Data = append([]byte(nil), r.Bytes()...)
	if r.Bad {
		return queue.Webhook{}, fmt.Errorf("%w %q: short webhook", errDamaged, key)
	}
	return w, nil
}

// format is the format record. It is written when the store is made, and when its format
// changes.
type format struct {
	version uint64
	tags    storefile.Tags
	// former is the newest event from the time when the store had an older format, or 0. F
	// keys name only events up to this one.
	former uint64
}

// encode writes the version, the first tag, the number of further tags, each further tag
// after the first event number that has it, and former.
func (f format) encode() []byte {
	b := binary.AppendUvarint(record(16), f.version)
	b = binary.BigEndian.AppendUint32(b, f.tags[0].Tag)
	b = binary.AppendUvarint(b, uint64(len(f.tags)-1))
	for _, t := range f.tags[1:] {
		b = binary.BigEndian.AppendUint32(binary.AppendUvarint(b, t.From), t.Tag)
	}
	b = binary.AppendUvarint(b, f.former)
	return seal(keyFormat, b)
}

func decodeFormat(rec []byte) (f format, err error) {
	p, err := unseal(keyFormat, rec)
	if err != nil {
		return f, err
	}
	r := codec.Reader{B: p}
	f.version = r.Uvarint()
	life := func(from uint64) {
		if b := r.Take(4); b != nil {
			f.tags = append(f.tags, storefile.Tag{From: from, Tag: binary.BigEndian.Uint32(b)})
		}
	}
	life(0)
	for n := r.Uvarint(); n > 0 && !r.Bad; n-- {
		life(r.Uvarint())
	}
	if len(r.B) > 0 { // a record of format 2 ends here
		f.former = r.Uvarint()
	}
	if r.Bad {
		return f, fmt.Errorf("%w %q: short", errDamaged, keyFormat)
	}
	return f, nil
}

// state holds the committer's counters and cursors. Every commit writes it.
type state struct {
	seq     uint64          // number of the newest event; numbers start at 1, without gaps
	events  int64           // how many events are stored now
	webhook queue.WebhookID // the last one that was given
	noted   uint64          // activities ever recorded; makes keys of the same instant differ
	// swept is the sweep cursor. Each event below it is removed, has a waiting delivery, or
	// has an X key.
	swept uint64
	ended int64 // no X key is older; unix nanoseconds
	// at is the time of the last commit by the store's clock. shift is how far the time of
	// day was ahead of that clock. Both are in nanoseconds.
	at, shift int64
	// live is about how many bytes the stored events take in the files, with their
	// deliveries and attempts. If counted is set, live is the sum of their sizes. If it is
	// not set, an older build or salvage wrote the counters. live is then 0 until the tree
	// has been rewritten; after that it is the size of the files plus all later changes.
	live    int64
	counted bool
	// redacted is a time in unix nanoseconds: events with an X key that ended before it are
	// redacted. If it is not 0, there may be redacted events.
	redacted int64
	// rewound counts how often the sweep cursor was put back since the store was
	// opened. It is not stored.
	rewound uint64
}

func flag(set bool) uint64 {
	if set {
		return 1
	}
	return 0
}

// measured reports whether live is known.
func (s *state) measured() bool { return s.counted || s.live != 0 }

// rewind makes the sweep start again at the first event.
func (s *state) rewind() {
	s.swept, s.redacted = 0, min(s.redacted, 1)
	s.rewound++
}

func (s state) encode() []byte {
	b := binary.AppendUvarint(record(64), s.seq)
	b = binary.AppendVarint(b, s.events)
	b = binary.AppendUvarint(b, uint64(s.webhook))
	b = binary.AppendUvarint(b, s.noted)
	b = binary.AppendUvarint(b, s.swept)
	b = binary.AppendVarint(b, s.ended)
	b = binary.AppendVarint(b, s.at)
	b = binary.AppendVarint(b, s.shift)
	b = binary.AppendVarint(b, s.live)
	b = binary.AppendUvarint(b, flag(s.counted))
	if s.redacted != 0 {
		b = binary.AppendVarint(b, s.redacted)
	}
	return seal(keyState, b)
}

func decodeState(rec []byte) (s state, err error) {
	p, err := unseal(keyState, rec)
	if err != nil {
		return s, err
	}
	r := codec.Reader{B: p}
	s = state{seq: r.Uvarint(), events: r.Varint(), webhook: queue.WebhookID(r.Uvarint()), noted: r.Uvarint(), swept: r.Uvarint(), ended: r.Varint(),
		at: r.Varint(), shift: r.Varint()}
	if len(r.B) > 0 {
		live := r.Varint()
		if len(r.B) > 0 { // if no number follows, an older build wrote this one, with another meaning
			s.live, s.counted = live, r.Uvarint() == 1
		}
		if len(r.B) > 0 {
			s.redacted = r.Varint()
		}
	}
	if r.Bad {
		return s, fmt.Errorf("%w %q: short", errDamaged, keyState)
	}
	return s, nil
}

// marks holds a webhook's low-water marks. No fresh delivery of the webhook has a lower
// sequence number than fresh, and no delivery on a rung is due before due[rung]. A lane
// starts to read there, after the tombstones of finished deliveries.
type marks struct {
	fresh uint64
	due   map[uint8]int64 // has no entry for a rung that was never used
}

func encodeLane(key []byte, c queue.Counts, m marks) []byte {
	b := record(64)
	for _, n := range []int64{c.Pending, c.Retrying, c.Delivered, c.Failed} {
		b = binary.AppendVarint(b, n)
	}
	b = binary.AppendUvarint(b, m.fresh)
	b = binary.AppendUvarint(b, uint64(len(m.due)))
	for rung, due := range m.due {
		b = append(b, rung)
		b = binary.AppendVarint(b, due)
	}
	return seal(key, b)
}

func decodeLane(key, rec []byte) (c queue.Counts, m marks, err error) {
	p, err := unseal(key, rec)
	if err != nil {
		return c, m, err
	}
	r := codec.Reader{B: p}
	c = queue.Counts{Pending: r.Varint(), Retrying: r.Varint(), Delivered: r.Varint(), Failed: r.Varint()}
	m.fresh = r.Uvarint()
	m.due = make(map[uint8]int64)
	for n := r.Uvarint(); n > 0 && !r.Bad; n-- {
		rung := r.Take(1)
		due := r.Varint()
		if rung != nil {
			m.due[rung[0]] = due
		}
	}
	if r.Bad {
		return c, m, fmt.Errorf("%w %q: short", errDamaged, key)
	}
	return c, m, nil
}
