package event

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/big"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// v8 is a node process that is asked, text by text, what JavaScript makes of
// it.
type v8 struct {
	in  io.Writer
	out *bufio.Reader
}

// The answer is "stable", or what JSON.stringify(JSON.parse(text)) gives in
// base64, or "!" and why it cannot be parsed.
const v8Program = `
const lines = require('readline').createInterface({ input: process.stdin, terminal: false });
lines.on('line', (line) => {
  const text = Buffer.from(line, 'base64').toString('utf8');
  let out;
  try { out = JSON.stringify(JSON.parse(text)); } catch (e) { process.stdout.write('!' + e.message.replace(/\n/g, ' ') + '\n'); return; }
  process.stdout.write((out === text ? 'stable' : Buffer.from(out).toString('base64')) + '\n');
});`

// longer is how many times as many random documents a long run makes, by the
// environment's SOAK: they are large, and slow under the race detector.
func longer() int {
	n, _ := strconv.Atoi(os.Getenv("SOAK"))
	return max(1, 20*n)
}

func startV8(t testing.TB) *v8 {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("node is needed to compare with V8")
		}
		t.Skip("node is not installed; it is needed to compare with V8")
	}
	cmd := exec.Command(node, "-e", v8Program)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	return &v8{in: in, out: bufio.NewReaderSize(out, 1<<20)}
}

// ask returns node's answers in the order of the texts. It sends all texts before
// it waits for an answer: a test that asks each text by itself waits most of the time.
func (v *v8) ask(t testing.TB, texts ...[]byte) []string {
	t.Helper()
	sent := make(chan error, 1)
	go func() {
		w := bufio.NewWriter(v.in)
		for _, text := range texts {
			_, _ = w.WriteString(base64.StdEncoding.EncodeToString(text) + "\n")
		}
		sent <- w.Flush() // it keeps the first error
	}()
	said := make([]string, len(texts))
	for i := range said {
		line, err := v.out.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		said[i] = strings.TrimSuffix(line, "\n")
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	return said
}

// mustAgree checks that what Canonical makes of each text is stable in V8 and what
// V8 makes of the text itself. Texts that Canonical refuses are left out.
func (v *v8) mustAgree(t testing.TB, texts ...[]byte) {
	t.Helper()
	var asked [][]byte // what Canonical made of a text, and the text
	for _, text := range texts {
		if got, err := Canonical(text); err == nil {
			asked = append(asked, got, text)
		}
	}
	said := v.ask(t, asked...)
	for i := 0; i < len(asked); i += 2 {
		got, text := asked[i], asked[i+1]
		if said[i] != "stable" {
			t.Fatalf("%q becomes %q, which is not stable: %s", text, got, said[i])
		}
		v8s := said[i+1]
		if v8s == "stable" {
			v8s = base64.StdEncoding.EncodeToString(text)
		}
		if want, err := base64.StdEncoding.DecodeString(v8s); err != nil || !bytes.Equal(want, got) {
			t.Fatalf("%q becomes %q; V8 makes %q of it", text, got, want)
		}
	}
}

func TestCanonicalBytesAreThoseOfV8(t *testing.T) {
	t.Parallel()
	v := startV8(t)
	for _, text := range []string{
		`{}`, `[]`, `null`, `true`, `""`, ` { "a" : [ 1 , 2.50 , -0 , 0.0 , 1E2 , 1e-7, 1e21, 1.2345678901234500, 0.000001 ] } `,
		`{"b":1,"a":2,"10":3,"9":4,"01":5,"-1":6,"4294967294":7,"4294967295":8,"1.5":9,"":10}`,
		`{"x":{"2":1,"1":{"b":0,"0":0}}}`,
		`"\u0000\u001f\b\t\n\f\r\"\\\/\u007f\u2028\u2029<>&\ud83d\ude00é\u00e9"`,
		`[5e-324,1.7976931348623157e308,9007199254740991,-9007199254740991,0.1,1e-6,9.999e-7]`,
		"\"\u2028\u2029\U0010ffff\ufffe\"",
		`{"constructor":1,"toString":2,"hasOwnProperty":3,"prototype":4}`,
		`{"` + strings.Repeat("k", 5000) + `":1}`,
	} {
		v.mustAgree(t, []byte(text))
		if _, err := Canonical([]byte(text)); err != nil {
			t.Errorf("%s is refused: %v", text, err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	var texts, numbers [][]byte
	for range 300 * longer() {
		texts = append(texts, randomJSON(rnd, nil, 0))
	}
	for range 3000 { // every exponent, every mantissa
		if f := math.Float64frombits(rnd.Uint64()); !math.IsNaN(f) && !math.IsInf(f, 0) {
			numbers = append(numbers, AppendNumber(nil, f))
		}
	}
	for i, said := range v.ask(t, numbers...) {
		if said != "stable" {
			t.Fatalf("a number prints as %s, which is not stable: %s", numbers[i], said)
		}
	}
	for e := -330; e <= 310; e++ {
		texts = append(texts, fmt.Appendf(nil, "[1e%d,-9.5e%d,1.5E%+d]", e, e, e))
	}
	for r := rune(0); r <= 0x10ffff; r += 64 { // all code points, 64 a text
		var s strings.Builder
		for c := r; c < r+64; c++ {
			if c < 0xd800 || c > 0xdfff {
				s.WriteRune(c)
			}
		}
		quoted, err := json.Marshal(s.String())
		if err != nil {
			t.Fatal(err)
		}
		if r%4096 == 0 || r < 0x3000 {
			texts = append(texts, quoted)
		}
	}
	v.mustAgree(t, texts...)
}

// TestNumbersOfClientsAreThoseOfV8 has what serialisers of other languages
// write, and what stands near the borders of doubles.
func TestNumbersOfClientsAreThoseOfV8(t *testing.T) {
	t.Parallel()
	v := startV8(t)
	zeros := strings.Repeat("0", 120_000)
	var texts, integers [][]byte
	for literal, want := range map[string]string{ // empty: refused
		"52.520006600000002":           "52.5200066",         // printf("%.17g", 52.5200066): C, PHP's serialize_precision 17
		"52.520006599999997":           "52.520006599999995", // the double that the 17 digits name
		"0.10000000000000001":          "0.1",                // .NET Framework's "R"
		"13.404999999999999":           "13.405",
		"13.4049999999999994":          "13.405",      // 18 digits
		"1.0E10":                       "10000000000", // Java's Double.toString
		"1.7976931348623157E308":       "1.7976931348623157e+308",
		"1e+16":                        "10000000000000000", // Python's repr
		"5.0":                          "5",
		"-5.00":                        "-5",
		"1e20":                         "100000000000000000000",
		"100000000000000000000":        "100000000000000000000",
		"1000000000000000000000":       "1e+21",
		"9007199254740991":             "9007199254740991",
		"9007199254740992":             "9007199254740992",
		"9007199254740993":             "", // 2^53+1
		"-9007199254740993":            "",
		"9007199254740994":             "9007199254740994", // 2^53+2
		"9007199254740993.0":           "9007199254740992", // a double
		"9223372036854775807":          "",
		"9223372036854775808":          "", // 2^63: V8 writes …776000
		"9223372036854776000":          "9223372036854776000",
		"9223372036854775808.0":        "9223372036854776000",
		"18446744073709551615":         "",
		"1234567890123456789":          "",
		"1e-400":                       "0",
		"-1e-400":                      "0",
		"-0":                           "0",
		"-0.0e-5":                      "0",
		"2e-324":                       "0",
		"3e-324":                       "5e-324",
		"1.7976931348623158e308":       "1.7976931348623157e+308",
		"1.7976931348623159e308":       "",
		"1e309":                        "",
		"-1e999999999999999999999":     "",
		"1e-99999999999999999999":      "0",
		"0e99999999999999999999":       "0",
		"1" + strings.Repeat("0", 308): "1e+308",
		"1" + strings.Repeat("0", 309): "",
		"0." + zeros + "1e120001":      "1",
		"0." + zeros + "1e119999":      "0.01",
		"1" + zeros + "e-120000":       "1",
		"1" + zeros + "e-119691":       "",
		"1" + zeros + "e-120400":       "0",
		"0." + zeros + "1":             "0",
		// Halfway between 1 and the next double, and a digit after the 1,000th.
		"1.00000000000000011102230246251565404236316680908203125":                                   "1",
		"1.00000000000000011102230246251565404236316680908203125" + strings.Repeat("0", 1000) + "1": "1.0000000000000002",
	} {
		text := []byte("[" + literal + "]")
		got, err := Canonical(text)
		if (err != nil) != (want == "") || err == nil && string(got) != "["+want+"]" {
			t.Errorf("%.60s is written %s, want %q (empty is refused): %v", literal, got, want, err)
		}
		texts = append(texts, text)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 2))
	for range 2000 { // integers: kept if V8's form is the same number
		literal := strconv.FormatUint(rnd.Uint64()>>rnd.IntN(12), 10)
		switch rnd.IntN(3) {
		case 0:
			literal += strings.Repeat("0", rnd.IntN(300))
		case 1:
			f, _ := new(big.Float).SetFloat64(rnd.Float64() * math.Pow(2, float64(rnd.IntN(90)))).Int(nil)
			literal = f.String()
		}
		integers = append(integers, []byte(literal))
	}
	for i, said := range v.ask(t, integers...) {
		mustKeepInteger(t, string(integers[i]), said)
	}
	for range 2000 { // doubles: any number of digits
		f := math.Float64frombits(rnd.Uint64())
		if math.IsNaN(f) || math.IsInf(f, 0) {
			continue
		}
		text := fmt.Appendf(nil, "[%s]", strconv.FormatFloat(f, 'e', rnd.IntN(40), 64))
		if _, err := Canonical(text); err != nil && !strings.Contains(err.Error(), "too large") {
			t.Errorf("%s is refused: %v", text, err)
		}
		texts = append(texts, text)
	}
	v.mustAgree(t, texts...)
}

// mustKeepInteger checks that an integer is refused exactly if what V8 said it
// writes for it is another number.
func mustKeepInteger(t testing.TB, literal, said string) {
	t.Helper()
	form := literal
	if said != "stable" {
		b, err := base64.StdEncoding.DecodeString(said)
		if err != nil {
			t.Fatalf("%s: %s", literal, said)
		}
		form = string(b)
	}
	written, ok := new(big.Rat).SetString(literal)
	if !ok {
		t.Fatalf("%s is no integer", literal)
	}
	read, ok := new(big.Rat).SetString(form)
	same := ok && read.Cmp(written) == 0
	got, err := Canonical([]byte(literal))
	if same != (err == nil) || same && string(got) != form {
		t.Errorf("V8 writes %s as %s: we write %q, %v", literal, form, got, err)
	}
}

// randomJSON appends a nasty value.
func randomJSON(rnd *rand.Rand, b []byte, depth int) []byte {
	space := func() {
		for rnd.IntN(8) == 0 {
			b = append(b, " \t\n\r"[rnd.IntN(4)])
		}
	}
	space()
	kind := rnd.IntN(10)
	if depth > 6 {
		kind = rnd.IntN(5)
	}
	switch kind {
	case 0:
		b = append(b, []string{"null", "true", "false"}[rnd.IntN(3)]...)
	case 1:
		b = fmt.Appendf(b, "%d", rnd.Int64N(1<<54)-1<<53)
	case 2:
		b = fmt.Appendf(b, "%d.%de%d", rnd.IntN(1000), rnd.IntN(1000), rnd.IntN(60)-30)
	case 3, 4, 5:
		b = randomString(rnd, b)
	case 6, 7:
		b = append(b, '[')
		for i := range rnd.IntN(5) {
			if i > 0 {
				b = append(b, ',')
			}
			b = randomJSON(rnd, b, depth+1)
		}
		b = append(b, ']')
	default:
		b = append(b, '{')
		for i := range rnd.IntN(22) {
			if i > 0 {
				b = append(b, ',')
			}
			if rnd.IntN(3) == 0 {
				b = fmt.Appendf(b, `"%d"`, rnd.IntN(1<<rnd.IntN(34)+1))
			} else {
				b = randomString(rnd, b)
			}
			space()
			b = append(b, ':')
			b = randomJSON(rnd, b, depth+1)
		}
		b = append(b, '}')
	}
	space()
	return b
}

func randomString(rnd *rand.Rand, b []byte) []byte {
	b = append(b, '"')
	for range rnd.IntN(12) {
		switch rnd.IntN(6) {
		case 0:
			b = fmt.Appendf(b, `\u%04x`, rnd.IntN(0x10000))
		case 1:
			b = append(b, '\\', `"\/bfnrt`[rnd.IntN(8)])
		case 2:
			b = append(b, string(rune(rnd.IntN(0x10ffff)))...)
		case 3:
			b = append(b, "\u2028\u2029<&>'\u007f"[rnd.IntN(3)*3:][:3]...)
		default:
			b = append(b, byte('a'+rnd.IntN(26)))
		}
	}
	return append(b, '"')
}

// TestSuitesAreKeptOrRefused splices every text of two public suites into a
// submission: it is refused with a problem, or its document is stable.
func TestSuitesAreKeptOrRefused(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../shared/json-suite/*.json")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	var documents [][]byte
	splice := func(name string, text []byte) {
		if doc := documentWith(t, text); doc != nil {
			names, documents = append(names, name), append(documents, doc)
		}
	}
	for _, text := range []string{`[1]`, `{"a":1,"a":2}`, `"\ud800"`, `1e999`, `[1.0000000000000000001]`} {
		splice("built in", []byte(text))
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		splice(filepath.Base(file), text)
	}
	for i, said := range startV8(t).ask(t, documents...) {
		if said != "stable" {
			t.Errorf("%s: %q is not stable: %s", names[i], documents[i], said)
		}
	}
	t.Logf("%d files, %d documents", len(files), len(documents))
}

// documentWith returns the document of a submission with a text spliced in, or nil if
// it is refused with a problem.
func documentWith(t *testing.T, text []byte) []byte {
	t.Helper()
	body := append(append([]byte(`{"message":"m","metadata":{"v":`), text...), "}}"...)
	f, err := Parse(body)
	if err != nil {
		mustBeProblem(t, err)
		return nil
	}
	defer f.Release()
	now := time.Now()
	f.Complete(now, NewID)
	doc, err := f.Document(Created, now)
	if err != nil {
		mustBeProblem(t, err)
		return nil
	}
	return bytes.Clone(doc)
}

func mustBeProblem(t testing.TB, err error) {
	t.Helper()
	p, ok := err.(*Problem) //nolint:errorlint // it is returned bare
	if !ok || p.Status != 400 && p.Status != 422 || p.Detail == "" {
		t.Errorf("refused with %v, which is no problem of status 400 or 422", err)
	}
}

func FuzzCanonical(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5e3,"\u2028",null]}`, `{"2":1,"1":2}`, `"\ud83d\ude00"`, `-0`, `[1e21,1e-7]`, "{\"a\":1}\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := Canonical(text)
		if err != nil {
			mustBeProblem(t, err)
			return
		}
		again, err := Canonical(got)
		if err != nil || !bytes.Equal(again, got) {
			t.Fatalf("%q becomes %q, and that %q, %v", text, got, again, err)
		}
		var x, y any
		if json.Unmarshal(text, &x) != nil || json.Unmarshal(got, &y) != nil {
			t.Fatalf("%q or %q is no JSON to encoding/json", text, got)
		}
		zero := strings.NewReplacer("-0", "0") // JavaScript prints no negative zero
		if a, b := zero.Replace(fmt.Sprint(x)), zero.Replace(fmt.Sprint(y)); a != b {
			t.Fatalf("%q reads as %s, %q as %s", text, a, got, b)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"message":"m","rating":5,"context":{"viewport":{"width":1}},"1":2}`), []byte(`{"status":"done","metadata":{"a":null}}`))
	f.Add([]byte(`{"message":"m","createdAt":"2026-01-07T15:30:00+01:00","id":"a"}`), []byte(`{"context":null}`))
	f.Fuzz(func(t *testing.T, body, change []byte) {
		fb, err := Parse(body)
		if err != nil {
			mustBeProblem(t, err)
			return
		}
		defer fb.Release()
		now := time.Date(2026, 1, 7, 15, 30, 0, 0, time.UTC)
		fb.Fill(Defaults{Project: "p", Context: Context{Browser: "b"}})
		fb.Complete(now, NewID)
		doc, err := fb.Document(Created, now)
		if err != nil {
			mustBeProblem(t, err)
			return
		}
		if again, err := Canonical(doc); err != nil || !bytes.Equal(again, doc) {
			t.Fatalf("%q is not canonical: %q, %v", doc, again, err)
		}
		stored, err := Stored(doc)
		if err != nil {
			t.Fatalf("%q cannot be read back: %v", doc, err)
		}
		defer stored.Release()
		p, err := ParsePatch(change)
		if err != nil {
			mustBeProblem(t, err)
			return
		}
		if _, err := stored.Merge(p); err != nil {
			mustBeProblem(t, err)
			return
		}
		doc, err = stored.Document(Updated, now)
		if err != nil {
			mustBeProblem(t, err)
			return
		}
		if again, err := Canonical(doc); err != nil || !bytes.Equal(again, doc) {
			t.Fatalf("merged, %q is not canonical: %q, %v", doc, again, err)
		}
	})
}

func FuzzForm(f *testing.F) {
	f.Add("message=m&rating=5&metadata.plan=pro&context.viewport.width=10")
	f.Add("message=m&metadata=1&metadata.a=2&__proto__.x=1")
	f.Fuzz(func(t *testing.T, query string) {
		values, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		for name, vs := range values {
			if !utf8.ValidString(name + strings.Join(vs, "")) {
				return
			}
		}
		fb, err := ParseForm(values)
		if err != nil {
			mustBeProblem(t, err)
			return
		}
		defer fb.Release()
		doc, err := fb.Document(Created, time.Now())
		if err != nil {
			mustBeProblem(t, err)
			return
		}
		if again, err := Canonical(doc); err != nil || !bytes.Equal(again, doc) {
			t.Fatalf("%q is not canonical: %q, %v", doc, again, err)
		}
	})
}
