package event

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestHostileJSONCostsWhatItsLengthDoes: a body four times as long takes at most
// about four times as long, whatever it is made of. Anything quadratic takes
// sixteen times as long, and the test has room for noise between the two.
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
			const n = 2000
			short, long := fastest(made(n)), fastest(made(4*n))
			if ratio := float64(long) / float64(max(short, 2*time.Microsecond)); ratio > 10 {
				t.Errorf("%d bytes take %s, %d bytes %s: %.1f times as long", len(made(n)), short, len(made(4*n)), long, ratio)
			}
			if long > 300*time.Millisecond {
				t.Errorf("%d bytes take %s", len(made(4*n)), long)
			}
		})
	}
}

// fastest is how long parsing and writing takes when nothing comes between.
func fastest(body []byte) time.Duration {
	best := time.Hour
	for range 7 {
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
