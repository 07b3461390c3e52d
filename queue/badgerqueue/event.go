package badgerqueue

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/codec"
	"github.com/userhero/relay/queue/badgerqueue/layout"
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// The first byte of an event's payload says how to read the rest. A payload of format 2 of
// the store begins with the length of the event's type instead, which is never below 4; the
// event's project is only in its document.
const (
	eventPlain  = 0 // the document as it is, as format 3 of the store wrote it
	eventPacked = 2 // the document as codec.Packer packs it
	// eventRedacted is a flag: the event is redacted.
	eventRedacted = 1
)

// appendEvent appends an event's payload with its document, which the caller has packed.
// The ID is not stored, because the time, the store's tag and the key determine it.
func appendEvent(b []byte, e *queue.Event, packed []byte) []byte {
	format := byte(eventPacked)
	if e.Redacted {
		format |= eventRedacted
	}
	b = append(b, format)
	b = codec.AppendString(b, e.Type)
	b = codec.AppendString(b, e.Feedback.ID)
	b = codec.AppendString(b, e.Feedback.Project)
	b = binary.AppendVarint(b, e.Created.UnixMilli())
	b = appendTrace(b, e.Trace)
	b = codec.AppendBool(b, !e.Replaces.IsZero())
	if !e.Replaces.IsZero() {
		b = append(b, e.Replaces[:]...)
	}
	return append(b, packed...)
}

// storedEvent is an event as its record has it.
type storedEvent struct {
	queue.Event // its Body is empty until unpack is called
	// document is the document as it is stored. It is a slice of the record.
	document []byte
	packed   bool
}

// unpack sets Body to a copy of the document.
func (e *storedEvent) unpack() (err error) {
	if !e.packed {
		e.Body = bytes.Clone(e.document)
		return nil
	}
	if e.Body, err = codec.Unpack(e.document); err != nil {
		return fmt.Errorf("%w: event %s: %w", layout.ErrDamaged, e.ID, err)
	}
	return nil
}

// size is about how many bytes the event takes in the files, without its deliveries and
// attempts. It depends on the event's record alone.
func (e *storedEvent) size() int { return eventSize(&e.Event, len(e.document)) }

// decodeEvent reads an event, without its Body.
func decodeEvent(key, rec []byte, t storefile.Tags) (storedEvent, error) {
	p, err := layout.Unseal(key, rec)
	if err != nil {
		return storedEvent{}, err
	}
	r := codec.Reader{B: p}
	former := len(p) == 0 || p[0] > eventPacked|eventRedacted
	var format byte
	if !former {
		format, r.B = p[0], p[1:]
	}
	e := storedEvent{packed: format&eventPacked != 0}
	e.Redacted = format&eventRedacted != 0
	e.Type = r.String()
	e.Feedback.ID = r.String()
	if !former {
		e.Feedback.Project = r.String()
	}
	e.Created = time.UnixMilli(r.Varint()).UTC()
	e.Trace = readTrace(&r)
	if r.Bool() {
		copy(e.Replaces[:], r.Take(len(e.Replaces)))
	}
	if r.Bad {
		return storedEvent{}, fmt.Errorf("%w %q: short event header", layout.ErrDamaged, key)
	}
	e.ID = queue.NewEventID(e.Created, t.Of(layout.SeqOf(key)), layout.SeqOf(key))
	e.document = r.B[:len(r.B):len(r.B)]
	if former && !e.Feedback.IsZero() {
		e.Feedback.Project = projectOf(e.document)
	}
	return e, nil
}

// decodeWhole reads an event with its Body, in memory of its own.
func decodeWhole(key, rec []byte, t storefile.Tags) (storedEvent, error) {
	e, err := decodeEvent(key, rec, t)
	if err == nil {
		err = e.unpack()
	}
	return e, err
}

// projectOf reads the project from an event's document. Documents have their members in a
// fixed order: data begins with id and projectId, if it has them.
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

// descend enters the object that is the value of a member of the next object.
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

func appendTrace(b []byte, t queue.TraceContext) []byte {
	if t.TraceID == ([16]byte{}) {
		return append(b, 0)
	}
	b = append(b, 1)
	b = append(b, t.TraceID[:]...)
	b = append(b, t.SpanID[:]...)
	b = append(b, t.Flags)
	return codec.AppendString(b, t.State)
}

func readTrace(r *codec.Reader) (t queue.TraceContext) {
	if !r.Bool() {
		return t
	}
	copy(t.TraceID[:], r.Take(16))
	copy(t.SpanID[:], r.Take(8))
	if f := r.Take(1); f != nil {
		t.Flags = f[0]
	}
	t.State = r.String()
	if t.TraceID == ([16]byte{}) { // appendTrace never writes an empty trace ID
		return queue.TraceContext{}
	}
	return t
}

// delivery is one webhook's entry in a B record: 16 bytes, and the log of its attempt if
// it is kept there.
type delivery struct {
	webhook  queue.WebhookID
	state    queue.State
	rung     uint8
	attempts uint16
	// at is a time in unix nanoseconds: when the delivery is due, or, if it does not wait
	// any more, when it ended. A pending delivery with at 0 is fresh: it has no R key, and
	// its lane finds it by its event's number.
	at int64
	// log is the first attempt, if it delivered the event and is short enough to be kept
	// here. All other attempts have records of their own. Nil means none.
	log []byte
}

func (d delivery) fresh() bool { return d.state == queue.Pending && d.at == 0 }

// waitsAt returns the R key of a delivery, and whether it has one.
func (d delivery) waitsAt(seq uint64) (layout.Waiting, bool) {
	return layout.Waiting{Due: d.at, Seq: seq}, d.state.Waiting() && d.at != 0
}

const (
	deliverySize = 16
	// hasLog is a flag in the byte of the state: the log follows, with its length.
	hasLog = 0x80
	// Nearly every delivery succeeds at the first attempt. It needs one record less if the
	// log of that attempt is in the B record. But the B record is rewritten for each of the
	// event's webhooks. So a log is kept there only if it is short, and if the event has
	// few webhooks.
	maxLog, maxLogged = 1 << 10, 8
)

// maxDeliveries is the most deliveries of one event. Removing the event takes two entries
// for each delivery, in one transaction.
const maxDeliveries = 3_000

// deliveries is a B record: the deliveries of one event, one for each webhook.
type deliveries []delivery

func (ds deliveries) find(w queue.WebhookID) *delivery {
	for i := range ds {
		if ds[i].webhook == w {
			return &ds[i]
		}
	}
	return nil
}

// wait reports whether any of the deliveries waits.
func (ds deliveries) wait() bool {
	return slices.ContainsFunc(ds, func(d delivery) bool { return d.state.Waiting() })
}

// sort puts the entries into the order they are stored and listed in.
func (ds deliveries) sort() {
	slices.SortFunc(ds, func(a, b delivery) int { return cmp.Compare(a.webhook, b.webhook) })
}

// size returns the most bytes that the record may take.
func (ds deliveries) size() int {
	n := layout.RecordHeader + len(ds)*deliverySize
	for i := range ds {
		if ds[i].log != nil {
			n += binary.MaxVarintLen16 + len(ds[i].log)
		}
	}
	return n
}

// encode completes a record that was started with the function record.
func (ds deliveries) encode(key, rec []byte) []byte { return layout.Seal(key, ds.appendTo(rec)) }

// appendTo appends the payload.
func (ds deliveries) appendTo(b []byte) []byte {
	for i := range ds {
		d := &ds[i]
		state := byte(d.state)
		if d.log != nil {
			state |= hasLog
		}
		b = binary.BigEndian.AppendUint32(b, uint32(d.webhook))
		b = append(b, state, d.rung)
		b = binary.BigEndian.AppendUint16(b, d.attempts)
		b = binary.BigEndian.AppendUint64(b, uint64(d.at))
		if d.log != nil {
			b = codec.AppendString(b, d.log)
		}
	}
	return b
}

// decodeDeliveries appends the entries of a B record to ds. Their logs are slices
// of rec.
func decodeDeliveries(ds deliveries, key, rec []byte) (deliveries, error) {
	p, err := layout.Unseal(key, rec)
	if err != nil {
		return nil, err
	}
	r := codec.Reader{B: p}
	for len(r.B) > 0 {
		e := r.Take(deliverySize)
		if e == nil {
			break
		}
		d := delivery{
			webhook:  queue.WebhookID(binary.BigEndian.Uint32(e)),
			state:    queue.State(e[4] &^ hasLog),
			rung:     e[5],
			attempts: binary.BigEndian.Uint16(e[6:]),
			at:       int64(binary.BigEndian.Uint64(e[8:])),
		}
		if e[4]&hasLog != 0 {
			d.log = r.Bytes()
		}
		ds = append(ds, d)
	}
	if r.Bad {
		return nil, fmt.Errorf("%w %q: %d bytes of deliveries", layout.ErrDamaged, key, len(p))
	}
	return ds, nil
}

// The payload of an attempt begins with its format, which is attemptFormat and flags. Format 4
// of the store and those before wrote attemptTraced, with or without attemptWithBody, and
// their header fields repeat what the rest of the record says.
const (
	attemptFormat   = 4
	attemptTraced   = 2 // it has a trace context
	attemptWithBody = 1 // its request body was not the event's document
)

// appendAttempt appends the payload of an attempt of the delivery with this id.
func appendAttempt(b []byte, a *queue.Attempt, id string) []byte {
	format := byte(attemptFormat)
	if len(a.RequestBody) > 0 {
		format |= attemptWithBody
	}
	context := codec.Attempt{Delivery: id, Began: a.At.Unix(), Trace: traceOf(a)}
	if context.Trace != [len(context.Trace)]byte{} {
		format |= attemptTraced
	}
	b = append(b, format)
	b = binary.AppendVarint(b, unixNano(a.At))
	b = binary.AppendVarint(b, int64(a.Duration))
	b = binary.AppendUvarint(b, uint64(max(a.Status, 0)))
	b = codec.AppendString(b, a.Error)
	b = codec.AppendString(b, a.ErrorClass)
	if format&attemptTraced != 0 {
		b = append(b, context.Trace[:]...)
	}
	b = binary.AppendVarint(b, unixNano(a.Next))
	b = codec.AppendHeaders(b, a.RequestHeaders, &context)
	b = codec.AppendHeaders(b, a.ResponseHeaders, &context)
	if format&attemptWithBody != 0 {
		b = codec.AppendString(b, a.RequestBody)
	}
	return append(b, a.ResponseBody...)
}

// traceOf returns the trace context of an attempt.
func traceOf(a *queue.Attempt) (trace [25]byte) {
	copy(trace[:], a.TraceID[:])
	copy(trace[16:], a.SpanID[:])
	trace[24] = a.TraceFlags
	return trace
}

// decodeAttempt reads the record of an attempt of the delivery with this id.
func decodeAttempt(key, rec []byte, id string) (queue.Attempt, error) {
	p, err := layout.Unseal(key, rec)
	if err != nil {
		return queue.Attempt{}, err
	}
	return parseAttempt(key, p, int(binary.BigEndian.Uint16(key[13:])), id)
}

// parseAttempt reads the payload of the attempt with this key, of the delivery with this
// id.
func parseAttempt(key, p []byte, number int, id string) (queue.Attempt, error) {
	r := codec.Reader{B: p}
	if len(p) == 0 || p[0] < attemptTraced || p[0] > attemptFormat|attemptTraced|attemptWithBody {
		return queue.Attempt{}, fmt.Errorf("%w %q: an attempt of an unknown format", layout.ErrDamaged, key)
	}
	format := r.Take(1)[0]
	a := queue.Attempt{
		Number: number, At: fromUnixNano(r.Varint()), Duration: time.Duration(r.Varint()), Status: int(r.Uvarint()),
		Error: r.String(), ErrorClass: r.String(),
	}
	if format&attemptTraced != 0 {
		copy(a.TraceID[:], r.Take(16))
		copy(a.SpanID[:], r.Take(8))
		if f := r.Take(1); f != nil {
			a.TraceFlags = f[0]
		}
	}
	a.Next = fromUnixNano(r.Varint())
	context := codec.Attempt{Delivery: id, Began: a.At.Unix(), Trace: traceOf(&a)}
	a.RequestHeaders, a.ResponseHeaders = r.Headers(&context), r.Headers(&context)
	if format&attemptWithBody != 0 {
		a.RequestBody = append([]byte(nil), r.Bytes()...)
	}
	a.ResponseBody = append([]byte(nil), r.B...)
	if r.Bad {
		return queue.Attempt{}, fmt.Errorf("%w %q: short attempt", layout.ErrDamaged, key)
	}
	return a, nil
}

// entryOverhead is about what Badger adds to each entry, in bytes.
const entryOverhead = 24

// eventSize is about how many bytes an event takes in the files, without its deliveries and
// attempts, if its document takes so many.
func eventSize(e *queue.Event, document int) int {
	const header = 64 // bytes of the record's header and of the keys
	return header + 2*entryOverhead + document + 2*len(e.Feedback.ID) + 2*len(e.Feedback.Project) + len(e.Trace.State)
}

// attemptSize is about how many bytes the record of an attempt takes in the files.
func attemptSize(key, rec []byte) int { return len(key) + len(rec) + entryOverhead }

func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromUnixNano(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
