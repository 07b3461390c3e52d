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
		"application/json", "application/json ", "\x00\xff", strings.Repeat("x", 5000), strings.Repeat("x", 5000), "12345678", "1234567", "123456789",
	}
	var hs []queue.Header
	for i, v := range values {
		hs = append(hs, queue.Header{Name: fmt.Sprint("X-", i), Value: v}, queue.Header{Name: v, Value: v})
	}
	r := Reader{B: AppendHeaders(nil, hs)}
	if got := r.Headers(); r.Bad || len(r.B) > 0 || !reflect.DeepEqual(got, hs) {
		for i := range got {
			if got[i] != hs[i] {
				t.Errorf("%q became %q", hs[i], got[i])
			}
		}
		t.Fatalf("bad: %v, %d bytes left", r.Bad, len(r.B))
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
