package e2e

import (
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
)

// nastyTexts are JSON values that writers of JSON disagree about.
func nastyTexts() []string {
	texts := []string{
		// numbers: shortest form, exponents, negative zero, limits
		"0", "-0", "-0.0", "0e0", "-0e-9", "1.0", "1.50", "100", "1e2", "1E2", "1e+2", "123456789012345680000",
		"1e20", "1e21", "1e-6", "1e-7", "0.000001", "0.0000001", "0.1", "0.10", "5e-324", "4.9e-324", "2e-324",
		"1.7976931348623157e308", "1e308", "1e309", "-1e309", "9007199254740991", "-9007199254740991",
		"9007199254740992", "9007199254740993", "0.30000000000000004", "333333333.33333329", "1e-400", "4.35",
		// strings: escapes, controls, separators, surrogates, normalisation
		`""`, `"\u0000"`, `"\u001f\u007f\u0080\u009f"`, `"\b\f\n\r\t\v"`, `"\b\f\n\r\t"`, `"\/ /"`, `"\u003c<>&'"`,
		`"\u2028\u2029"`, "\"\u2028\u2029\"", `"\ud83d\ude00"`, `"😀"`, `"\ud83d"`, `"\ude00"`, `"\ude00\ud83d"`, `"\uD83D\uDE00"`,
		`"é"`, `"e\u0301"`, `"\u00e9"`, `"\ufeff"`, `"\ufffe\uffff"`, `"中文 العربية עברית"`, `"\\u0041"`, `"\u0041"`, `"\u005c\u0022"`,
		`"</script><script>alert(1)</script>"`, `"' OR 1=1 --"`, `"${7*7}{{7*7}}"`, `"\r\nX-Injected: 1"`,
		// member order: array indices first, then as they came
		`{"b":1,"a":2,"2":3,"10":4,"1":5}`, `{"4294967294":1,"4294967295":2,"4294967296":3,"0":4}`, `{"01":1,"1":2,"-1":3,"1.0":4,"+1":5," 1":6}`,
		`{"":1," ":2}`, `{"z":{"9":{"8":1,"a":2,"7":3}}}`, `{"1e3":1,"1000":2}`, `{"9007199254740993":1}`, `{"\u0031":1,"0":2}`,
		// names that JavaScript knows
		`{"constructor":1,"toString":2,"hasOwnProperty":3,"valueOf":4}`, `{"__proto__":1}`, `{"a":{"__proto__":{}}}`, `{"\u005f_proto__":1}`, `{"toJSON":1}`,
		`{"length":1,"prototype":{}}`,
		// duplicates
		`{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `{"1":1,"1":2}`,
		// white space and nesting
		" {\t\"a\" :\r\n[ 1 , 2 ] } ", "[]", "{}", "[[],{},[{}]]", "null", "true", "false", `[null,true,false,0,"",[],{}]`,
		strings.Repeat("[", 60) + strings.Repeat("]", 60), strings.Repeat("[", 200) + strings.Repeat("]", 200),
		strings.Repeat(`{"a":`, 60) + "1" + strings.Repeat("}", 60),
		// not JSON
		"", ",", "[1,]", `{"a":}`, "'a'", "NaN", "Infinity", "undefined", "01", "1.", ".5", "+1", "0x10", "\"\t\"", "\"\xff\"", "\"\xc0\x80\"", "\"\xed\xa0\x80\"", "\"\xf4\x90\x80\x80\"", "1}}{", "// c\n1",
		// big
		`"` + strings.Repeat("a", 60<<10) + `"`, `"` + strings.Repeat("\\u0001", 10<<10) + `"`, `"` + strings.Repeat("é😀", 9<<10) + `"`,
		"[" + strings.Repeat("1e21,", 10<<10) + "0]", "[" + strings.Repeat("0.000001,", 6<<10) + "0]",
	}
	for _, c := range []rune{0x7e, 0x7f, 0x80, 0x7ff, 0x800, 0xd7ff, 0xe000, 0xfffd, 0xffff, 0x10000, 0x10ffff} {
		texts = append(texts, `"`+string(c)+`"`, `{"`+string(c)+`":1}`)
	}
	for c := range 0x20 {
		texts = append(texts, `"\u`+strings.ToUpper(strconv.FormatInt(int64(0x10000+c), 16)[1:])+`"`)
	}
	return texts
}

// nastyBodies are whole submissions.
func nastyBodies() []string {
	return []string{
		`{"10":"a","message":"m","2":"b"}`,
		`{"metadata":{},"context":{"viewport":{"9":1,"height":1,"width":2},"z":1,"pageUrl":"/","1":2},"message":"m"}`,
		`{"message":"m","rating":5.0}`, `{"message":"m","rating":3e0}`, `{"message":"m","rating":2.5}`,
		`{"message":"\u2028 <b>&amp;</b> \ud83d\ude00","category":"bug","rating":1,"screenshotUrl":"https://example.com/a?b=c&d=%20"}`,
		`{"message":"m","id":"client id / with : odd? chars"}`,
		`{"message":"m","createdAt":"2026-01-07T15:30:00.123+02:00"}`, `{"message":"m","createdAt":"yesterday"}`,
		`{"message":"m","event":"feedback.deleted","timestamp":1,"data":{"id":"x"}}`,
		`{"message":" "}`, `{"message":"\u0000"}`, `{"message":null}`, `{"message":"m","category":null}`, `{"message":"m","metadata":null}`,
		"\ufeff" + `{"message":"m"}`, `{"message":"m"} `, "\n\t" + `{"message":"m"}` + "\r\n", `{"message":"m"}{"message":"n"}`, `["message"]`, `"message"`, ``,
	}
}

// randomTexts are JSON values from a fixed seed: every run sends the same.
func randomTexts(n int) []string {
	r := rand.New(rand.NewPCG(2026, 11))
	texts := make([]string, n)
	for i := range texts {
		var b strings.Builder
		randomValue(r, &b, 5)
		texts[i] = b.String()
	}
	return texts
}

func randomValue(r *rand.Rand, b *strings.Builder, depth int) {
	kind := r.IntN(6)
	if depth == 0 {
		kind = r.IntN(4)
	}
	switch kind {
	case 0, 1:
		randomNumber(r, b)
	case 2, 3:
		randomString(r, b)
	case 4:
		b.WriteByte('[')
		for i := range r.IntN(6) {
			if i > 0 {
				b.WriteByte(',')
			}
			randomValue(r, b, depth-1)
		}
		b.WriteByte(']')
	case 5:
		b.WriteByte('{')
		for i := range r.IntN(8) {
			if i > 0 {
				b.WriteByte(',')
			}
			// Mostly array indices; a repeated name is refused, which is fine too.
			if r.IntN(2) == 0 {
				b.WriteString(strconv.Quote(strconv.Itoa(r.IntN(1 << r.IntN(32)))))
			} else {
				randomString(r, b)
			}
			b.WriteByte(':')
			randomValue(r, b, depth-1)
		}
		b.WriteByte('}')
	}
}

func randomNumber(r *rand.Rand, b *strings.Builder) {
	switch f := math.Float64frombits(r.Uint64()); {
	case math.IsNaN(f) || math.IsInf(f, 0):
		b.WriteString("1e-5")
	case r.IntN(2) == 0:
		b.WriteString(strconv.FormatFloat(f, "eEg"[r.IntN(3)], r.IntN(25)-1, 64))
	default:
		b.WriteString(strconv.FormatFloat(r.NormFloat64()*math.Pow10(r.IntN(30)-10), 'f', r.IntN(20), 64))
	}
}

func randomString(r *rand.Rand, b *strings.Builder) {
	b.WriteByte('"')
	for range r.IntN(12) {
		switch r.IntN(5) {
		case 0:
			b.WriteString(`\u` + strconv.FormatInt(0x10000+int64(r.IntN(0xd800)), 16)[1:])
		case 1:
			b.WriteString(`\` + string(`"\/bfnrt`[r.IntN(8)]))
		case 2:
			b.WriteRune(rune(0x10000 + r.IntN(0x100000)))
		case 3:
			b.WriteRune(rune(0x80 + r.IntN(0xd000)))
		default:
			b.WriteByte("abcXYZ019 _-<>&'/"[r.IntN(17)])
		}
	}
	b.WriteByte('"')
}
