package badgerqueue

import (
	"encoding/binary"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// FuzzRecords: whatever bytes a record has, reading it says that it is damaged
// or gives what, written again, reads as the same. The checksum is made right,
// so that it is the reading behind it that is tried.
func FuzzRecords(f *testing.F) {
	event := queue.Event{Type: "feedback.created", Feedback: queue.FeedbackID{Project: "p", ID: "fb_1"}, Created: time.UnixMilli(1_700_000_000_000), Body: []byte(`{"a":1}`)}
	event.Trace.TraceID[0], event.Trace.State = 1, "a=b"
	event.Replaces = queue.NewEventID(event.Created, 7, 8)
	f.Add(appendEvent(record(0), &event)[recordHeader:])
	attempt := queue.Attempt{At: event.Created, Status: 500, Error: "e", ErrorClass: "http_500", Duration: time.Second, Next: event.Created,
		RequestHeaders: []queue.Header{{Name: "a", Value: "b"}}, ResponseBody: []byte("x")}
	f.Add(appendAttempt(nil, &attempt))
	f.Add(deliveries{{webhook: 1, state: queue.Retrying, rung: 2, attempts: 3, at: 4}}.appendTo(nil))
	f.Add(deliveries{{webhook: 1, state: queue.Delivered, attempts: 1, log: appendAttempt(nil, &attempt)}, {webhook: 2}}.appendTo(nil))
	f.Add(idempotency{seq: 9}.encode([]byte("k"))[recordHeader:])
	f.Add(idempotency{seq: 9, answer: []byte("{}")}.encode([]byte("k"))[recordHeader:])
	f.Add(feedback{seq: 9, origin: [32]byte{1}, answer: []byte("{}")}.encode([]byte("k"))[recordHeader:])
	f.Add(encodeWebhook(webhookKey(3), queue.Webhook{ID: 3, Name: "w", Revision: 2, Data: []byte("{}")})[recordHeader:])
	f.Add(state{seq: 5, events: 4, at: 3, shift: -2}.encode()[recordHeader:])
	f.Add(encodeLane(laneKey(1), queue.Counts{Pending: 1, Failed: 2}, marks{fresh: 3, due: map[uint8]int64{1: 2, 0: 5}})[recordHeader:])
	f.Add([]byte("\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")) // a length of nearly 2^64
	f.Fuzz(func(t *testing.T, payload []byte) {
		const seq, webhook, number = 77, 3, 2
		tag := storefile.Tags{{From: 0, Tag: 5}}
		again(t, "event", eventKey(seq), payload, func(key, rec []byte) (queue.Event, error) { return decodeEvent(key, rec, tag) },
			func(key []byte, e queue.Event) []byte { return seal(key, appendEvent(record(0), &e)) })
		again(t, "deliveries", deliveriesKey(seq), payload, func(key, rec []byte) (deliveries, error) { return decodeDeliveries(nil, key, rec) },
			func(key []byte, ds deliveries) []byte { return ds.encode(key, record(ds.size())) })
		again(t, "attempt", attemptKey(seq, webhook, number), payload, decodeAttempt,
			func(key []byte, a queue.Attempt) []byte { return seal(key, appendAttempt(record(0), &a)) })
		again(t, "idempotency", idempotencyKey("k"), payload, decodeIdempotency,
			func(key []byte, k idempotency) []byte { return k.encode(key) })
		again(t, "feedback", feedbackKey(event.Feedback), payload, decodeFeedback,
			func(key []byte, f feedback) []byte { return f.encode(key) })
		again(t, "sequence number", formerKey("fb"), payload, decodeSeq, encodeSeq)
		again(t, "webhook", webhookKey(webhook), payload, decodeWebhook, encodeWebhook)
		again(t, "format", keyFormat, payload, func(_, rec []byte) (format, error) { return decodeFormat(rec) },
			func(_ []byte, f format) []byte { return f.encode() })
		again(t, "state", keyState, payload, func(_, rec []byte) (state, error) { return decodeState(rec) },
			func(_ []byte, s state) []byte { return s.encode() })
		type lane struct {
			counts queue.Counts
			marks  marks
		}
		again(t, "lane", laneKey(webhook), payload, func(key, rec []byte) (lane, error) {
			c, m, err := decodeLane(key, rec)
			return lane{c, m}, err
		}, func(key []byte, l lane) []byte { return encodeLane(key, l.counts, l.marks) })
		// The bytes as they are: without a right checksum nothing is read.
		if _, err := decodeEvent(eventKey(seq), payload, tag); err == nil && len(payload) < recordHeader {
			t.Error("an event was read from nothing")
		}
	})
}

// again reads, writes and reads a record.
func again[T any](t *testing.T, kind string, key, payload []byte, decode func(key, rec []byte) (T, error), encode func(key []byte, v T) []byte) {
	t.Helper()
	first, err := decode(key, seal(key, append(record(len(payload)), payload...)))
	if err != nil {
		if !errors.Is(err, errDamaged) {
			t.Errorf("%s: %v is not errDamaged", kind, err)
		}
		return
	}
	second, err := decode(key, encode(key, first))
	if err != nil {
		t.Errorf("%s: what was written again cannot be read: %v", kind, err)
	} else if !reflect.DeepEqual(first, second) {
		t.Errorf("%s: %+v became %+v", kind, first, second)
	}
}

// encodeSeq makes a record of format 2: the latest event of a feedback.
func encodeSeq(key []byte, seq uint64) []byte {
	return seal(key, binary.BigEndian.AppendUint64(record(8), seq))
}
