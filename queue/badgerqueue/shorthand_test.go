package badgerqueue

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
)

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
		ResponseBody: []byte("OK"),
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

// TestValuesReadAsTheyWere: what nearly has a shape that shorthand knows.
func TestValuesReadAsTheyWere(t *testing.T) {
	t.Parallel()
	digits := strings.Repeat("0123456789abcdef", 4)
	values := []string{
		"", "a", "sha256=", "sha256=" + digits, "sha256=" + strings.ToUpper(digits), "sha256=" + digits[1:], "v1,", "v1,sha256=" + digits,
		"v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4= v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
		"K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=", "K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI5=", // the last with bits that no bytes have
		"K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pA==", "================", "K5oZfzN95Z9UVu1\n", "\r\nZfzN95Z9UVu1E", "K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN\r\n=pI4=",
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		"00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331-01",
		"application/json", "application/json ", "\x00\xff", strings.Repeat("x", 5000), strings.Repeat("x", 5000), "12345678", "1234567", "123456789",
	}
	var hs []queue.Header
	for i, v := range values {
		hs = append(hs, queue.Header{Name: fmt.Sprint("X-", i), Value: v}, queue.Header{Name: v, Value: v})
	}
	r := reader{b: appendHeaders(nil, hs)}
	if got := r.headers(); r.bad || len(r.b) > 0 || !reflect.DeepEqual(got, hs) {
		for i := range got {
			if got[i] != hs[i] {
				t.Errorf("%q became %q", hs[i], got[i])
			}
		}
		t.Fatalf("bad: %v, %d bytes left", r.bad, len(r.b))
	}
}

func TestWordsAreDistinctAndFitTheirNumbers(t *testing.T) {
	t.Parallel()
	if len(words) > len(wordNumbers)*2/3 {
		t.Fatalf("%d words are too many for the table", len(words))
	}
	for n, word := range words {
		if got := wordNumber(word); int(got) != n {
			t.Errorf("%q has the numbers %d and %d", word, n, got)
		}
		if got := wordNumber(word + "?"); got != 0 {
			t.Errorf("%q? is taken for %q", word, words[got])
		}
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
