package codec

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/userhero/relay/queue"
)

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
		"00-00000000000000000000000000000000-0000000000000000-00", "dlv_06f1m3c9k5rrxax4gj5c6w7tnm_3", "dlv_06f1m3c9k5rrxax4gj5c6w7tnm_4", "",
		"1764000000", "1763999999", "1764004095", "1764005000", "+176400000", "-176400000", "0764000000", "176400000x", "9999999999",
		"Mon, 24 Nov 2025 16:00:00 GMT", "Mon, 24 Nov 2025 16:00:02 GMT", "Mon, 24 Nov 2025 15:59:59 GMT", "Tue, 24 Nov 2025 16:00:00 GMT", "Mon, 24 Nov 2025 24:00:00 GMT",
		"Mon, 24 nov 2025 16:00:00 GMT", "Mon, 24 Nov 1925 16:00:00 GMT", "Mon, 24 Nov 2025 16:00:00 gmt",
		"application/json", "application/json ", "\x00\xff", strings.Repeat("x", 5000), strings.Repeat("x", 5000), "12345678", "1234567", "123456789",
	}
	var hs []queue.Header
	for i, v := range values {
		hs = append(hs, queue.Header{Name: fmt.Sprint("X-", i), Value: v}, queue.Header{Name: v, Value: v})
	}
	for _, a := range []Attempt{{}, {
		Delivery: "dlv_06f1m3c9k5rrxax4gj5c6w7tnm_3", Began: 1_764_000_000,
		Trace: [25]byte{0x0a, 0xf7, 0x65, 0x19, 0x16, 0xcd, 0x43, 0xdd, 0x84, 0x48, 0xeb, 0x21, 0x1c, 0x80, 0x31, 0x9c, 0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31, 1},
	}} {
		r := Reader{B: AppendHeaders(nil, hs, &a)}
		if got := r.Headers(&a); r.Bad || len(r.B) > 0 || !reflect.DeepEqual(got, hs) {
			for i := range got {
				if got[i] != hs[i] {
					t.Errorf("%q became %q", hs[i], got[i])
				}
			}
			t.Fatalf("bad: %v, %d bytes left", r.Bad, len(r.B))
		}
	}
}

// TestWhatTheAttemptSaysTakesNoBytes: ids and times of the attempt itself.
func TestWhatTheAttemptSaysTakesNoBytes(t *testing.T) {
	t.Parallel()
	a := Attempt{Delivery: "dlv_06f1m3c9k5rrxax4gj5c6w7tnm_3", Began: 1_764_000_000, Trace: [25]byte{1}}
	traceparent := a.traceparent()
	hs := []queue.Header{
		{Name: "webhook-id", Value: a.Delivery}, {Name: "webhook-timestamp", Value: "1764000001"},
		{Name: "Date", Value: "Mon, 24 Nov 2025 16:00:01 GMT"}, {Name: "traceparent", Value: string(traceparent[:])},
	}
	if b := AppendHeaders(nil, hs, &a); len(b) != 1+3*len(hs) {
		t.Errorf("%d fields take %d bytes", len(hs), len(b))
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
