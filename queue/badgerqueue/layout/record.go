package layout

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
	RecordVersion = 1
	RecordHeader  = 1 + 4
)

// FormatVersion is the version of the whole layout. A store of an older version, down to
// FormerVersion, is read without conversion. Its first commit writes FormatVersion; after
// that, builds that know only older versions refuse the store.
const (
	FormatVersion = 5
	// ProjectVersion is the version from which G keys name feedback, with its project. Before
	// it, F keys did.
	ProjectVersion = 3
	FormerVersion  = 2
)

// Knows returns an error if this build does not know the format of a store or a backup.
func Knows(what string, version uint64) error {
	switch {
	case version > FormatVersion:
		return fmt.Errorf("the %s has format %d and this build knows format %d: use a newer build", what, version, FormatVersion)
	case version < FormerVersion:
		return fmt.Errorf("the %s has format %d, of builds before the first release, and this build knows format %d:"+
			" let the build that made it deliver what waits, and begin a new one", what, version, FormatVersion)
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrDamaged marks a record with a wrong checksum or shape.
var ErrDamaged = errors.New("damaged record")

// Record starts a value with room for the header. The caller appends the payload.
func Record(size int) []byte {
	return append(make([]byte, 0, RecordHeader+size), RecordVersion, 0, 0, 0, 0)
}

// Seal writes the checksum into a finished record.
func Seal(key, rec []byte) []byte {
	binary.BigEndian.PutUint32(rec[1:], checksum(key, rec[RecordHeader:]))
	return rec
}

func checksum(key, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, payload)
}

// Unseal checks a record and returns its payload.
func Unseal(key, rec []byte) ([]byte, error) {
	if len(rec) < RecordHeader {
		return nil, fmt.Errorf("%w %q: %d bytes", ErrDamaged, key, len(rec))
	}
	if rec[0] != RecordVersion {
		return nil, fmt.Errorf("%w %q: version %d, this build reads version %d", ErrDamaged, key, rec[0], RecordVersion)
	}
	if binary.BigEndian.Uint32(rec[1:]) != checksum(key, rec[RecordHeader:]) { // Promise 5: every record has a checksum over its key and value.
		return nil, fmt.Errorf("%w %q: checksum mismatch", ErrDamaged, key)
	}
	return rec[RecordHeader:], nil
}

// Idempotency is a K record.
type Idempotency struct {
	// Seq is the number of the event. If the submission stored no event, Seq is the number
	// of the feedback's latest event, with the flag WithoutEvent; older builds wrote 0. If
	// the event was erased, Seq is a mark of badgerqueue's.
	Seq    uint64
	Hash   [32]byte
	Answer []byte // format 2 did not store it: the event determines it
}

// WithoutEvent marks the key of a submission that stored no event.
const WithoutEvent = 1 << 63

// About returns the event that the submission stored, or the one that it left unchanged.
func (k Idempotency) About() uint64 { return k.Seq &^ WithoutEvent }

// Event returns the event that the submission stored, or 0 if it stored none.
func (k Idempotency) Event() uint64 {
	if k.Seq&WithoutEvent != 0 {
		return 0
	}
	return k.Seq
}

// Encode returns the record for a key.
func (k Idempotency) Encode(key []byte) []byte {
	b := binary.BigEndian.AppendUint64(Record(40+len(k.Answer)), k.Seq)
	b = append(b, k.Hash[:]...)
	return Seal(key, append(b, k.Answer...))
}

// DecodeIdempotency reads a K record.
func DecodeIdempotency(key, rec []byte) (k Idempotency, err error) {
	p, err := Unseal(key, rec)
	if err != nil {
		return k, err
	}
	if len(p) < 40 {
		return k, fmt.Errorf("%w %q: %d bytes of idempotency key", ErrDamaged, key, len(p))
	}
	k.Seq = binary.BigEndian.Uint64(p)
	copy(k.Hash[:], p[8:])
	k.Answer = bytes.Clone(p[40:])
	return k, nil
}

// Feedback is a G record.
type Feedback struct {
	Seq uint64 // number of its latest event
	// Origin is a hash of the submission that created the feedback, and Answer is the
	// answer to it. If Origin is empty, no submission counts as its repeat.
	Origin [32]byte
	Answer []byte
}

// AppendTo appends the payload.
func (f Feedback) AppendTo(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, f.Seq)
	if f.Origin == [32]byte{} {
		return b
	}
	return append(append(b, f.Origin[:]...), f.Answer...)
}

// Encode returns the record for a key.
func (f Feedback) Encode(key []byte) []byte {
	return Seal(key, f.AppendTo(Record(8+len(f.Origin)+len(f.Answer))))
}

// DecodeFeedback reads a G record.
func DecodeFeedback(key, rec []byte) (f Feedback, err error) {
	p, err := Unseal(key, rec)
	if err != nil {
		return f, err
	}
	if n := len(p); n != 8 && n < 8+len(f.Origin) {
		return f, fmt.Errorf("%w %q: %d bytes of feedback", ErrDamaged, key, n)
	}
	f.Seq = binary.BigEndian.Uint64(p)
	if copy(f.Origin[:], p[8:]); f.Origin != [32]byte{} {
		f.Answer = bytes.Clone(p[8+len(f.Origin):])
	}
	return f, nil
}

// DecodeSeq reads an F record, a sequence number.
func DecodeSeq(key, rec []byte) (uint64, error) {
	p, err := Unseal(key, rec)
	if err != nil {
		return 0, err
	}
	if len(p) != 8 {
		return 0, fmt.Errorf("%w %q: %d bytes of sequence number", ErrDamaged, key, len(p))
	}
	return binary.BigEndian.Uint64(p), nil
}

// EncodeWebhook returns the W record of a webhook.
func EncodeWebhook(key []byte, w queue.Webhook) []byte {
	b := Record(64 + len(w.Data))
	b = codec.AppendString(b, w.Name)
	b = binary.AppendUvarint(b, w.Revision)
	b = codec.AppendBool(b, w.Expires)
	b = codec.AppendString(b, w.Data)
	return Seal(key, b)
}

// DecodeWebhook reads a W record.
func DecodeWebhook(key, rec []byte) (queue.Webhook, error) {
	p, err := Unseal(key, rec)
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
		return queue.Webhook{}, fmt.Errorf("%w %q: short webhook", ErrDamaged, key)
	}
	return w, nil
}

// Format is the format record. It is written when the store is made, and when its format
// changes.
type Format struct {
	Version uint64
	Tags    storefile.Tags
	// Former is the newest event from the time when the store had a format before
	// ProjectVersion, or 0. F keys name only events up to this one.
	Former uint64
}

// Encode writes the version, the first tag, the number of further tags, each further tag
// after the first event number that has it, and Former.
func (f Format) Encode() []byte {
	b := binary.AppendUvarint(Record(16), f.Version)
	b = binary.BigEndian.AppendUint32(b, f.Tags[0].Tag)
	b = binary.AppendUvarint(b, uint64(len(f.Tags)-1))
	for _, t := range f.Tags[1:] {
		b = binary.BigEndian.AppendUint32(binary.AppendUvarint(b, t.From), t.Tag)
	}
	b = binary.AppendUvarint(b, f.Former)
	return Seal(KeyFormat, b)
}

// DecodeFormat reads the format record.
func DecodeFormat(rec []byte) (f Format, err error) {
	p, err := Unseal(KeyFormat, rec)
	if err != nil {
		return f, err
	}
	r := codec.Reader{B: p}
	f.Version = r.Uvarint()
	life := func(from uint64) {
		if b := r.Take(4); b != nil {
			f.Tags = append(f.Tags, storefile.Tag{From: from, Tag: binary.BigEndian.Uint32(b)})
		}
	}
	life(0)
	for n := r.Uvarint(); n > 0 && !r.Bad; n-- {
		life(r.Uvarint())
	}
	if len(r.B) > 0 { // a record of format 2 ends here
		f.Former = r.Uvarint()
	}
	if r.Bad {
		return f, fmt.Errorf("%w %q: short", ErrDamaged, KeyFormat)
	}
	return f, nil
}

// State holds the committer's counters and cursors. Every commit writes it.
type State struct {
	Seq     uint64          // number of the newest event; numbers start at 1, without gaps
	Events  int64           // how many events are stored now
	Webhook queue.WebhookID // the last one that was given
	Noted   uint64          // activities ever recorded; makes keys of the same instant differ
	// Swept is the sweep cursor. Each event below it is removed, has a waiting delivery, or
	// has an X key.
	Swept uint64
	Ended int64 // no X key is older; unix nanoseconds
	// At is the time of the last commit by the store's clock. Shift is how far the time of
	// day was ahead of that clock. Both are in nanoseconds.
	At, Shift int64
	// Live is about how many bytes the stored events take in the files, with their
	// deliveries and attempts. If Counted is set, Live is the sum of their sizes. If it is
	// not set, an older build or salvage wrote the counters. Live is then 0 until the tree
	// has been rewritten; after that it is the size of the files plus all later changes.
	Live    int64
	Counted bool
	// Redacted is a time in unix nanoseconds: events with an X key that ended before it are
	// redacted. If it is not 0, there may be redacted events.
	Redacted int64
	// Changes is how many Mc records the lane records do not count yet: those with the
	// numbers from 0 up to Changes. Mc records with higher numbers mean nothing.
	Changes uint64
	// Rewound counts how often the sweep cursor was put back since the store was
	// opened. It is not stored.
	Rewound uint64
}

func flag(set bool) uint64 {
	if set {
		return 1
	}
	return 0
}

// Measured reports whether Live is known.
func (s *State) Measured() bool { return s.Counted || s.Live != 0 }

// Rewind makes the sweep start again at the first event.
func (s *State) Rewind() {
	s.Swept, s.Redacted = 0, min(s.Redacted, 1)
	s.Rewound++
}

// Encode returns the record.
func (s State) Encode() []byte {
	b := binary.AppendUvarint(Record(64), s.Seq)
	b = binary.AppendVarint(b, s.Events)
	b = binary.AppendUvarint(b, uint64(s.Webhook))
	b = binary.AppendUvarint(b, s.Noted)
	b = binary.AppendUvarint(b, s.Swept)
	b = binary.AppendVarint(b, s.Ended)
	b = binary.AppendVarint(b, s.At)
	b = binary.AppendVarint(b, s.Shift)
	b = binary.AppendVarint(b, s.Live)
	b = binary.AppendUvarint(b, flag(s.Counted))
	if s.Redacted != 0 || s.Changes != 0 {
		b = binary.AppendVarint(b, s.Redacted)
	}
	if s.Changes != 0 {
		b = binary.AppendUvarint(b, s.Changes)
	}
	return Seal(KeyState, b)
}

// DecodeState reads the record of the state.
func DecodeState(rec []byte) (s State, err error) {
	p, err := Unseal(KeyState, rec)
	if err != nil {
		return s, err
	}
	r := codec.Reader{B: p}
	s = State{Seq: r.Uvarint(), Events: r.Varint(), Webhook: queue.WebhookID(r.Uvarint()), Noted: r.Uvarint(), Swept: r.Uvarint(), Ended: r.Varint(),
		At: r.Varint(), Shift: r.Varint()}
	if len(r.B) > 0 {
		live := r.Varint()
		if len(r.B) > 0 { // if no number follows, an older build wrote this one, with another meaning
			s.Live, s.Counted = live, r.Uvarint() == 1
		}
		if len(r.B) > 0 {
			s.Redacted = r.Varint()
		}
		if len(r.B) > 0 {
			s.Changes = r.Uvarint()
		}
	}
	if r.Bad {
		return s, fmt.Errorf("%w %q: short", ErrDamaged, KeyState)
	}
	return s, nil
}

// Marks holds a webhook's low-water marks. No fresh delivery of the webhook has a lower
// sequence number than Fresh, and no delivery on a rung is due before Due[rung]. A lane
// starts to read there, after the tombstones of finished deliveries.
type Marks struct {
	Fresh uint64
	Due   map[uint8]int64 // has no entry for a rung that was never used
}

// EncodeLane returns the record of a webhook's counters and low-water marks.
func EncodeLane(key []byte, c queue.Counts, m Marks) []byte {
	b := appendCounts(Record(64), c)
	b = binary.AppendUvarint(b, m.Fresh)
	b = binary.AppendUvarint(b, uint64(len(m.Due)))
	for rung, due := range m.Due {
		b = append(b, rung)
		b = binary.AppendVarint(b, due)
	}
	return Seal(key, b)
}

// DecodeLane reads the record of EncodeLane.
func DecodeLane(key, rec []byte) (c queue.Counts, m Marks, err error) {
	p, err := Unseal(key, rec)
	if err != nil {
		return c, m, err
	}
	r := codec.Reader{B: p}
	c = readCounts(&r)
	m.Fresh = r.Uvarint()
	m.Due = make(map[uint8]int64)
	for n := r.Uvarint(); n > 0 && !r.Bad; n-- {
		rung := r.Take(1)
		due := r.Varint()
		if rung != nil {
			m.Due[rung[0]] = due
		}
	}
	if r.Bad {
		return c, m, fmt.Errorf("%w %q: short", ErrDamaged, key)
	}
	return c, m, nil
}

// Change is what a commit changed in the counters of one webhook.
type Change struct {
	Webhook queue.WebhookID
	Counts  queue.Counts // the differences
}

// ChangeSize is about how many bytes a change takes.
const ChangeSize = 8

// AppendChange appends a change to the payload of an Mc record.
func AppendChange(b []byte, c Change) []byte {
	return appendCounts(binary.AppendUvarint(b, uint64(c.Webhook)), c.Counts)
}

// DecodeChanges reads an Mc record.
func DecodeChanges(key, rec []byte) (changes []Change, err error) {
	p, err := Unseal(key, rec)
	if err != nil {
		return nil, err
	}
	r := codec.Reader{B: p}
	for len(r.B) > 0 {
		changes = append(changes, Change{Webhook: queue.WebhookID(r.Uvarint()), Counts: readCounts(&r)})
	}
	if r.Bad {
		return nil, fmt.Errorf("%w %q: short", ErrDamaged, key)
	}
	return changes, nil
}

func appendCounts(b []byte, c queue.Counts) []byte {
	for _, n := range [...]int64{c.Pending, c.Retrying, c.Delivered, c.Failed} {
		b = binary.AppendVarint(b, n)
	}
	return b
}

func readCounts(r *codec.Reader) queue.Counts {
	return queue.Counts{Pending: r.Varint(), Retrying: r.Varint(), Delivered: r.Varint(), Failed: r.Varint()}
}
