package event

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestHostileJSONCostsWhatItsLengthDoes: the largest body that can be allowed, a
// mebibyte, is read within 3 s whatever it is made of. It takes some 50 ms; what
// is quadratic in the number of its members takes minutes.
func TestHostileJSONCostsWhatItsLengthDoes(t *testing.T) {
	body := func(metadata string) []byte { return []byte(`{"message":"m","metadata":` + metadata + `}`) }
	members := func(n int, name func(i int) string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `%q:0,`, name(i))
		}
		return "{" + strings.TrimSuffix(b.String(), ",") + "}"
	}
	for name, made := range map[string]func(n int) []byte{
		"many members": func(n int) []byte { return body(members(n, func(i int) string { return fmt.Sprint("k", i) })) },
		"names with a long prefix in common": func(n int) []byte {
			return body(members(n/20, func(i int) string { return strings.Repeat("x", 200) + fmt.Sprint(i) }))
		},
		"array indices, descending": func(n int) []byte { return body(members(n, func(i int) string { return fmt.Sprint(n - i) })) },
		"array indices, up and down": func(n int) []byte {
			return body(members(n, func(i int) string { return fmt.Sprint((i*7919 + 13) % (n * 16)) }))
		},
		"a name twice, at the end": func(n int) []byte {
			return body(members(n, func(i int) string { return fmt.Sprint("k", min(i, n-2)) }))
		},
		"many objects of few":       func(n int) []byte { return body("[" + strings.Repeat(`{"a":1,"b":2},`, n/4) + "0]") },
		"long numbers":              func(n int) []byte { return body("[" + strings.Repeat("0."+strings.Repeat("1", 700)+",", n/100) + "0]") },
		"one long number":           func(n int) []byte { return body("1" + strings.Repeat("0", n*4) + "1") },
		"one long fraction":         func(n int) []byte { return body("0." + strings.Repeat("0", n*4) + "1") },
		"huge exponents":            func(n int) []byte { return body("[" + strings.Repeat("1e-999999999,", n) + "0]") },
		"escapes":                   func(n int) []byte { return body(`"` + strings.Repeat(`\u0041`, n) + `"`) },
		"surrogates":                func(n int) []byte { return body(`"` + strings.Repeat(`\ud83d\ude00`, n) + `"`) },
		"brackets that never close": func(n int) []byte { return body(strings.Repeat("[", n*4)) },
		"nested to the bound": func(n int) []byte {
			return body("[" + strings.Repeat(strings.Repeat("[", 60)+strings.Repeat("]", 60)+",", n/30) + "0]")
		},
		"white space": func(n int) []byte { return body(strings.Repeat(" \t\r\n", n) + "1") },
	} {
		t.Run(name, func(t *testing.T) {
			const n, most = 60_000, 3 * time.Second
			body := made(n)
			if len(body) < 100<<10 {
				t.Fatalf("the body has %d bytes: it shows nothing", len(body))
			}
			if took := fastest(body); took > most {
				t.Errorf("%d bytes take %s", len(body), took)
			}
		})
	}
}

// fastest is how long parsing and writing takes when nothing comes between.
func fastest(body []byte) time.Duration {
	best := time.Hour
	for range 2 {
		start := time.Now()
		if f, err := Parse(body); err == nil {
			f.Complete(start, NewID)
			_, _ = f.Document(Created, start) // too large is fine
			f.Release()
		}
		best = min(best, time.Since(start))
	}
	return best
}
