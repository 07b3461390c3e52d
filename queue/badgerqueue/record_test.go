package badgerqueue

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
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

// usual is an attempt as most are: what the relay sends, and what Express
// answers.
func usual() queue.Attempt {
	const id = "evt_06F1M3C9K5RRXAX4GJ5C6W7TNM.3"
	return queue.Attempt{
		Number: 1, At: time.UnixMilli(1_764_000_000_123).UTC(), Duration: 1234567, Status: 200,
		TraceID: [16]byte{1, 2}, SpanID: [8]byte{3}, TraceFlags: 1,
		RequestHeaders: []queue.Header{
			{Name: "Content-Type", Value: "application/json"},
			{Name: "User-Agent", Value: "UserHero-Relay/1.0.0"},
			{Name: "X-UserHero-Attempt", Value: "1"},
			{Name: "X-UserHero-Delivery", Value: id},
			{Name: "X-UserHero-Event", Value: "feedback.created"},
			{Name: "X-UserHero-Signature", Value: "sha256=" + strings.Repeat("0123456789abcdef", 4)},
			{Name: "traceparent", Value: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
			{Name: "webhook-id", Value: id},
			{Name: "webhook-signature", Value: "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="},
			{Name: "webhook-timestamp", Value: "1764000000"},
		},
		ResponseHeaders: []queue.Header{
			{Name: "Connection", Value: "keep-alive"},
			{Name: "Content-Length", Value: "2"},
			{Name: "Content-Type", Value: "text/plain; charset=utf-8"},
			{Name: "Date", Value: "Tue, 25 Nov 2025 00:00:00 GMT"},
			{Name: "Etag", Value: `W/"2-nOO9QiTIwXgNtWtBJezz8kv3SLc"`},
			{Name: "Keep-Alive", Value: "timeout=5"},
			{Name: "X-Powered-By", Value: "Express"},
		},
		RequestBody: []byte("hello"), ResponseBody: []byte("OK"),
	}
}

func TestUsualAttemptIsShortAndReadsAsItWas(t *testing.T) {
	t.Parallel()
	want := usual()
	b := appendAttempt(nil, &want)
	if len(b) > 320 {
		t.Errorf("%d bytes", len(b))
	}
	got, err := parseAttempt(nil, b, 1)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\n%+v became\n%+v", err, want, got)
	}
}

func BenchmarkAttemptRecord(b *testing.B) {
	a := usual()
	buf := appendAttempt(nil, &a)
	b.ReportMetric(float64(len(buf)), "B/record")
	b.ReportAllocs()
	for b.Loop() {
		buf = appendAttempt(buf[:0], &a)
	}
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
