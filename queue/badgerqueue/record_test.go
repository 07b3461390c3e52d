package badgerqueue

import (
	"encoding/binary"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/codec"
	"github.com/userhero/relay/queue/badgerqueue/layout"
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// TestRecordsWithAnotherKeyOrAFlippedBitAreDamaged: each bit of a record counts,
// and so does the key it stands under.
func TestRecordsWithAnotherKeyOrAFlippedBitAreDamaged(t *testing.T) {
	t.Parallel()
	key := layout.FormerKey("fb_1")
	rec := encodeSeq(key, 7)
	if seq, err := layout.DecodeSeq(key, rec); err != nil || seq != 7 {
		t.Fatalf("read as %d, %v", seq, err)
	}
	if _, err := layout.DecodeSeq(layout.FormerKey("fb_2"), rec); !errors.Is(err, layout.ErrDamaged) {
		t.Errorf("under another key: %v", err)
	}
	for bit := range len(rec) * 8 {
		rec[bit/8] ^= 1 << (bit % 8)
		if _, err := layout.DecodeSeq(key, rec); !errors.Is(err, layout.ErrDamaged) {
			t.Errorf("with bit %d flipped: %v", bit, err)
		}
		rec[bit/8] ^= 1 << (bit % 8)
	}
}

// usualID is the id of a delivery.
const usualID = "dlv_06f1m3c9k5rrxax4gj5c6w7tnm_3"

// usual is an attempt of a delivery as most are: what the relay sends, and what Express
// answers.
func usual(id string) queue.Attempt {
	return queue.Attempt{
		Number: 1, At: time.UnixMilli(1_764_000_000_123).UTC(), Duration: 1234567, Status: 200,
		TraceID: [16]byte([]byte("0af7651916cd43dd")), SpanID: [8]byte([]byte("b7ad6b71")), TraceFlags: 1,
		RequestHeaders: []queue.Header{
			{Name: "Accept", Value: "*/*"},
			{Name: "Content-Type", Value: "application/json"},
			{Name: "User-Agent", Value: "UserHero-Relay/1.0.0"},
			{Name: "X-UserHero-Attempt", Value: "1"},
			{Name: "X-UserHero-Delivery", Value: id},
			{Name: "X-UserHero-Event", Value: "feedback.created"},
			{Name: "X-UserHero-Signature", Value: "sha256=" + strings.Repeat("0123456789abcdef", 4)},
			{Name: "traceparent", Value: "00-30616637363531393136636434336464-6237616436623731-01"},
			{Name: "webhook-id", Value: id},
			{Name: "webhook-signature", Value: "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="},
			{Name: "webhook-timestamp", Value: "1764000000"},
		},
		ResponseHeaders: []queue.Header{
			{Name: "Connection", Value: "keep-alive"},
			{Name: "Content-Length", Value: "2"},
			{Name: "Content-Type", Value: "text/plain; charset=utf-8"},
			{Name: "Date", Value: "Mon, 24 Nov 2025 16:00:00 GMT"},
			{Name: "Etag", Value: `W/"2-nOO9QiTIwXgNtWtBJezz8kv3SLc"`},
			{Name: "Keep-Alive", Value: "timeout=5"},
			{Name: "X-Powered-By", Value: "Express"},
		},
		RequestBody: []byte("hello"), ResponseBody: []byte("OK"),
	}
}

func TestUsualAttemptIsShortAndReadsAsItWas(t *testing.T) {
	t.Parallel()
	want := usual(usualID)
	b := appendAttempt(nil, &want, usualID)
	if len(b) > 240 {
		t.Errorf("%d bytes", len(b))
	}
	got, err := parseAttempt(nil, b, 1, usualID)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\n%+v became\n%+v", err, want, got)
	}
}

// TestAttemptsOfOlderFormatsReadAsTheyWere: they repeat the ids and times of the rest of the
// record.
func TestAttemptsOfOlderFormatsReadAsTheyWere(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"", "hello"} {
		want := usual(usualID)
		want.RequestBody = []byte(body)
		if body == "" {
			want.RequestBody = nil
		}
		got, err := parseAttempt(nil, formerAttempt(&want), 1, "dlv_00000000000000000000000000_9")
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v\n%+v became\n%+v", err, want, got)
		}
	}
}

// formerAttempt makes the payload of an attempt as format 4 of the store wrote it.
func formerAttempt(a *queue.Attempt) []byte {
	b := []byte{2}
	if len(a.RequestBody) > 0 {
		b[0] = 3
	}
	b = binary.AppendVarint(b, a.At.UnixNano())
	b = binary.AppendVarint(b, int64(a.Duration))
	b = binary.AppendUvarint(b, uint64(a.Status))
	b = append(b, 0, 0) // no error, and no class
	b = append(append(append(b, a.TraceID[:]...), a.SpanID[:]...), a.TraceFlags)
	b = append(b, 0) // no next
	nothing := codec.Attempt{Began: -1 << 40}
	b = codec.AppendHeaders(b, a.RequestHeaders, &nothing)
	b = codec.AppendHeaders(b, a.ResponseHeaders, &nothing)
	if len(a.RequestBody) > 0 {
		b = codec.AppendString(b, a.RequestBody)
	}
	return append(b, a.ResponseBody...)
}

func BenchmarkAttemptRecord(b *testing.B) {
	a := usual(usualID)
	buf := appendAttempt(nil, &a, usualID)
	b.ReportAllocs()
	for b.Loop() {
		buf = appendAttempt(buf[:0], &a, usualID)
	}
	b.ReportMetric(float64(len(buf)), "B/record")
}

// TestEventsOfFormat3ReadAsTheyWere: their documents are not packed. Format 3 also had
// redacted events, without a number of its own.
func TestEventsOfFormat3ReadAsTheyWere(t *testing.T) {
	t.Parallel()
	key, tags := layout.EventKey(7), storefile.Tags{{Tag: 5}}
	for _, redacted := range []bool{false, true} {
		want := queue.Event{
			Type: "feedback.created", Feedback: queue.FeedbackID{Project: "p", ID: "fb_1"}, Created: time.UnixMilli(1_764_000_000_123).UTC(),
			Body: usualDocument(1), Redacted: redacted,
		}
		want.ID = queue.NewEventID(want.Created, 5, 7)
		plain := layout.Seal(key, append(layout.Record(0), plainEvent(&want)...))
		for name, rec := range map[string][]byte{"format 3": plain, "now": eventRecord(key, &want)} {
			got, err := decodeWhole(key, rec, tags)
			if err != nil || !reflect.DeepEqual(got.Event, want) {
				t.Errorf("%s: %v\n%+v became\n%+v", name, err, want, got.Event)
			}
		}
	}
}
