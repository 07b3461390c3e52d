package badgerqueue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/codec"
	"github.com/userhero/relay/queue/badgerqueue/layout"
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// FuzzRecords: whatever bytes a record has, reading it says that it is damaged
// or gives what, written again, reads as the same. The checksum is made right,
// so that it is the reading behind it that is tried.
func FuzzRecords(f *testing.F) {
	event := queue.Event{Type: "feedback.created", Feedback: queue.FeedbackID{Project: "p", ID: "fb_1"}, Created: time.UnixMilli(1_700_000_000_000), Body: []byte(`{"a":1}`)}
	event.Trace.TraceID[0], event.Trace.State = 1, "a=b"
	event.Replaces = queue.NewEventID(event.Created, 7, 8)
	f.Add(eventRecord(layout.EventKey(77), &event)[layout.RecordHeader:])
	usual := event
	usual.Redacted, usual.Body = true, usualDocument(1)
	f.Add(eventRecord(layout.EventKey(77), &usual)[layout.RecordHeader:])
	f.Add(plainEvent(&usual))
	const id = "dlv_06f1m3c9k5rrxax4gj5c6w7tnm_3"
	attempt := queue.Attempt{At: event.Created, Status: 500, Error: "e", ErrorClass: "http_500", Duration: time.Second, Next: event.Created,
		RequestHeaders:  []queue.Header{{Name: "a", Value: "b"}, {Name: "webhook-id", Value: id}, {Name: "webhook-timestamp", Value: "1700000001"}},
		ResponseHeaders: []queue.Header{{Name: "Date", Value: "Tue, 14 Nov 2023 22:13:21 GMT"}}, ResponseBody: []byte("x")}
	f.Add(appendAttempt(nil, &attempt, id))
	f.Add(deliveries{{webhook: 1, state: queue.Retrying, rung: 2, attempts: 3, at: 4}}.appendTo(nil))
	f.Add(deliveries{{webhook: 1, state: queue.Delivered, attempts: 1, log: appendAttempt(nil, &attempt, id)}, {webhook: 2}}.appendTo(nil))
	f.Add(layout.Idempotency{Seq: 9}.Encode([]byte("k"))[layout.RecordHeader:])
	f.Add(layout.Idempotency{Seq: 9, Answer: []byte("{}")}.Encode([]byte("k"))[layout.RecordHeader:])
	f.Add(layout.Feedback{Seq: 9, Origin: [32]byte{1}, Answer: []byte("{}")}.Encode([]byte("k"))[layout.RecordHeader:])
	f.Add(layout.EncodeWebhook(layout.WebhookKey(3), queue.Webhook{ID: 3, Name: "w", Revision: 2, Data: []byte("{}")})[layout.RecordHeader:])
	f.Add(layout.State{Seq: 5, Events: 4, At: 3, Shift: -2}.Encode()[layout.RecordHeader:])
	f.Add(layout.State{Seq: 5, Events: 4, Changes: 3}.Encode()[layout.RecordHeader:])
	f.Add(layout.EncodeLane(layout.LaneKey(1), queue.Counts{Pending: 1, Failed: 2}, layout.Marks{Fresh: 3, Due: map[uint8]int64{1: 2, 0: 5}})[layout.RecordHeader:])
	f.Add(layout.AppendChange(layout.AppendChange(nil, layout.Change{Webhook: 1, Counts: queue.Counts{Pending: -1, Delivered: 1}}), layout.Change{Webhook: 300}))
	f.Add([]byte("\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")) // a length of nearly 2^64
	f.Fuzz(func(t *testing.T, payload []byte) {
		const seq, webhook, number = 77, 3, 2
		tag := storefile.Tags{{From: 0, Tag: 5}}
		again(t, "event", layout.EventKey(seq), payload, func(key, rec []byte) (queue.Event, error) {
			e, err := decodeWhole(key, rec, tag)
			return e.Event, err
		}, func(key []byte, e queue.Event) []byte { return eventRecord(key, &e) })
		again(t, "deliveries", layout.DeliveriesKey(seq), payload, func(key, rec []byte) (deliveries, error) { return decodeDeliveries(nil, key, rec) },
			func(key []byte, ds deliveries) []byte { return ds.encode(key, layout.Record(ds.size())) })
		again(t, "attempt", layout.AttemptKey(seq, webhook, number), payload, func(key, rec []byte) (queue.Attempt, error) { return decodeAttempt(key, rec, id) },
			func(key []byte, a queue.Attempt) []byte {
				return layout.Seal(key, appendAttempt(layout.Record(0), &a, id))
			})
		again(t, "idempotency", layout.IdempotencyKey("k"), payload, layout.DecodeIdempotency,
			func(key []byte, k layout.Idempotency) []byte { return k.Encode(key) })
		again(t, "feedback", layout.FeedbackKey(event.Feedback), payload, layout.DecodeFeedback,
			func(key []byte, f layout.Feedback) []byte { return f.Encode(key) })
		again(t, "sequence number", layout.FormerKey("fb"), payload, layout.DecodeSeq, encodeSeq)
		again(t, "webhook", layout.WebhookKey(webhook), payload, layout.DecodeWebhook, layout.EncodeWebhook)
		again(t, "format", layout.KeyFormat, payload, func(_, rec []byte) (layout.Format, error) { return layout.DecodeFormat(rec) },
			func(_ []byte, f layout.Format) []byte { return f.Encode() })
		again(t, "state", layout.KeyState, payload, func(_, rec []byte) (layout.State, error) { return layout.DecodeState(rec) },
			func(_ []byte, s layout.State) []byte { return s.Encode() })
		type lane struct {
			counts queue.Counts
			marks  layout.Marks
		}
		again(t, "lane", layout.LaneKey(webhook), payload, func(key, rec []byte) (lane, error) {
			c, m, err := layout.DecodeLane(key, rec)
			return lane{c, m}, err
		}, func(key []byte, l lane) []byte { return layout.EncodeLane(key, l.counts, l.marks) })
		again(t, "changes", layout.ChangesKey(1), payload, layout.DecodeChanges, func(key []byte, all []layout.Change) []byte {
			rec := layout.Record(0)
			for _, c := range all {
				rec = layout.AppendChange(rec, c)
			}
			return layout.Seal(key, rec)
		})
		// The bytes as they are: without a right checksum nothing is read.
		if _, err := decodeEvent(layout.EventKey(seq), payload, tag); err == nil && len(payload) < layout.RecordHeader {
			t.Error("an event was read from nothing")
		}
	})
}

// again reads, writes and reads a record.
func again[T any](t *testing.T, kind string, key, payload []byte, decode func(key, rec []byte) (T, error), encode func(key []byte, v T) []byte) {
	t.Helper()
	first, err := decode(key, layout.Seal(key, append(layout.Record(len(payload)), payload...)))
	if err != nil {
		if !errors.Is(err, layout.ErrDamaged) {
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

// eventRecord makes the record of an event.
func eventRecord(key []byte, e *queue.Event) []byte {
	return layout.Seal(key, appendEvent(layout.Record(0), e, new(codec.Packer).Pack(e.Body)))
}

// plainEvent makes the payload of an event as format 3 wrote it.
func plainEvent(e *queue.Event) []byte {
	b := appendEvent(nil, e, e.Body)
	b[0] -= eventPacked
	return b
}

// usualDocument is a document as most are.
func usualDocument(n int) []byte {
	return fmt.Appendf(nil, `{"event":"feedback.created","timestamp":"2026-11-28T16:00:00Z","data":{"id":"fb_06FP%d","projectId":"proj_xyz","message":"The export of report %d stays grey, `+
		`in Firefox and in Chrome. It worked last week. Größe, 特殊.","category":"bug","rating":2,"status":"new","context":{"pageUrl":"/dashboard/reports","referrer":"/dashboard",`+
		`"browser":"Chrome","browserVersion":"142","os":"macOS","deviceType":"desktop","viewport":{"width":1920,"height":1080},"timezone":"America/New_York","locale":"en-US",`+
		`"country":"US"},"metadata":{"userId":"user_%d"},"createdAt":"2026-11-28T16:00:00Z"}}`, n, n, n)
}

// encodeSeq makes a record of format 2: the latest event of a feedback.
func encodeSeq(key []byte, seq uint64) []byte {
	return layout.Seal(key, binary.BigEndian.AppendUint64(layout.Record(8), seq))
}
