package expression

import (
	"encoding/json"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"
)

const sample = `{"event":"feedback.created","timestamp":"2026-01-07T15:30:00Z","data":{"rating":2,"category":"bug",` +
	`"context":{"viewport":{"width":1920}},"metadata":{"plan":"pro","tags":["a","b"],"n":1.5,"nothing":null}}}`

func TestAbsentMembersReadAsNull(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]bool{
		`data.rating <= 2 && data.category == "bug"`:        true,
		`data.rating == 2`:                                  true,
		`data.rating > 2`:                                   false,
		`data.rating in [1, 2]`:                             true,
		`event == "feedback.updated"`:                       false,
		`data.metadata.plan == "pro"`:                       true,
		`data["category"] == "bug"`:                         true,
		`data.metadata.tags[1] == "b"`:                      true,
		`data.metadata.tags.exists(t, t == "b")`:            true,
		`data.metadata.exists(k, k == "plan")`:              true,
		`data.category.matches("^(a+)+$")`:                  false,
		`data.category.matches("^b")`:                       true,
		`has(data.absent) || data.category.startsWith("b")`: true,

		// An absent member equals null and nothing else.
		`data.absent == "x"`:                                     false,
		`data.absent != "spam"`:                                  true,
		`data.absent == null`:                                    true,
		`data.absent != null`:                                    false,
		`data.metadata.nothing == null`:                          true,
		`data.absent in ["x"]`:                                   false,
		`!(data.absent in ["x"])`:                                true,
		`data.absent == data.other`:                              true,
		`data["absent"] == null`:                                 true,
		`data.metadata.tags[7] == null`:                          true,
		`(data.absent == null ? "none" : data.absent) == "none"`: true,

		// Every ordering with null is false.
		`data.absent <= 2`:                   false,
		`data.absent < 2`:                    false,
		`data.absent > 2`:                    false,
		`data.absent >= 2`:                   false,
		`2 <= data.absent`:                   false,
		`data.absent <= data.other`:          false,
		`!(data.absent <= 2)`:                true,
		`data.absent < "x"`:                  false,
		`data.metadata.nothing <= 2`:         false,
		`data.absent <= 2 || data.rating==2`: true,

		// Members below an absent member.
		`data.absent.deeper.still == null`:     true,
		`data.absent.deeper <= 1`:              false,
		`data.absent["x"][0] == null`:          true,
		`data.context.viewport.height == null`: true,
		`data.context.viewport.width >= 1000`:  true,

		// has() works as usual.
		`has(data.absent)`:                 false,
		`has(data.absent.deeper)`:          false,
		`has(data.category)`:               true,
		`has(data.metadata.nothing)`:       true,
		`has(data.context.viewport.width)`: true,
	} {
		c, err := CompileCondition(source)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		got, err := c.Match(NewDocument([]byte(sample)))
		if err != nil || got != want {
			t.Errorf("%s is %v, %v; want %v and no error", source, got, err, want)
		}
	}
}

func TestWhatCannotBeJudgedIsAnError(t *testing.T) {
	t.Parallel()
	for _, source := range []string{
		`data.absent`, // null is not true or false
		`data.absent.startsWith("x")`,
		`!data.absent`,
		`data.absent.exists(x, true)`,
		`"x" in data.absent`,
		`data.category <= 2`,
		`data.category`,
		`data.category.deeper == "x"`,
		`has(data.category.deeper)`,
		`data.absent + "x" == "x"`,
	} {
		c, err := CompileCondition(source)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		if got, err := c.Match(NewDocument([]byte(sample))); err == nil || got || errors.Is(err, ErrTooDear) {
			t.Errorf("%s is %v, %v; want an error of types", source, got, err)
		}
	}
}

func TestWrongExpressionsAreRefusedWithTheirPosition(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		`data.rating <`:                                                    "1:14: ",
		`"a string"`:                                                       "gives a string; it must give true or false",
		`data.a == 1 && foo > 2`:                                           "1:16: undeclared reference to 'foo'",
		"data.a == 1 &&\n  event > 2":                                      "2:9: ",
		`data.category.matches(data.metadata.pattern)`:                     "1:22: the regular expression of matches must be written as a text in quotes",
		`matches(data.category, "a" + "b")`:                                "must be written as a text in quotes",
		`data.category.matches("(")`:                                       "1:22: the regular expression is wrong",
		`data.message.matches("\\pL{999}!")`:                               "too large",
		`data.message.matches("(a{30}){30}{30}")`:                          "the regular expression",
		`data.a.all(a, data.a.all(b, data.a.all(c, data.a.all(d, true))))`: "nested too deeply",
		`[1,2,3,4,5,6,7,8,9,10].all(a, ` + manyOf(50) + `.all(b, ` + manyOf(50) + `.all(c, a + b + c >= 0)))`: ErrTooDear.Error(),
		`data.a == "` + strings.Repeat("x", 5000) + `"`:                                                       "size",
	} {
		if _, err := CompileCondition(source); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.80s: want one line with %q, got %v", source, want, err)
		}
	}
}

// manyOf returns a list of n numbers.
func manyOf(n int) string {
	return "[" + strings.TrimSuffix(strings.Repeat("1,", n), ",") + "]"
}

// hostile holds expressions that are expensive on a document made for them. Without
// bounds they would take seconds and gigabytes.
var hostile = []string{
	`data.message.matches("(\\pL|\\pN){40}!")`,
	`data.list.all(x, data.message.matches("a.*b.*c!"))`,
	`data.list.map(a, data.list.map(b, data.message + data.message)).size() > 0`,
	`data.list.map(a, data.message + a + data.message).size() > 0`,
	`data.list.map(a, data.list.map(b, data.list.map(c, a + b + c))).size() > 0`,
	`data.list.all(a, data.list == data.list)`,
	`data.list.all(a, data.nested == data.nested)`,
	`data.list.all(a, !("nothing" in data.list))`,
	`data.list.all(a, data.message.contains("nothing") == false)`,
	`data.list.all(a, data.message <= data.message)`,
	`data.list.all(a, bytes(data.message) == bytes(data.message))`,
	`data.list.all(a, string(bytes(data.message)) != "")`,
	`data.list.all(a, (data.list + data.list).size() > 0)`,
	`data.list.map(a, data.list + data.list) == [data.list]`,
	`data.list.all(a, timestamp("2026-01-07T15:30:00Z").getHours("America/New_York") >= 0)`,
	`data.list.filter(a, data.list.exists(b, b == a + "x")).size() > 0`,
	`{"a": data.list.map(x, {x: data.message + x})}.size() > 5`,
}

// large returns a document with a text of 64 kB, a list of 5,000 entries and a list of
// 1,000 maps.
func large(tb testing.TB) []byte {
	tb.Helper()
	list := make([]string, 5000)
	for i := range list {
		list[i] = "entry"
	}
	nested := make([]any, 1000)
	for i := range nested {
		nested[i] = map[string]any{"a": map[string]any{"b": []int{i}}}
	}
	body, err := json.Marshal(map[string]any{
		"event": "feedback.created",
		"data":  map[string]any{"message": strings.Repeat("a", 64<<10), "list": list, "nested": nested},
	})
	if err != nil {
		tb.Fatal(err)
	}
	return body
}

// TestDearExpressionsEnd: each expression ends by itself. The time limits are generous
// because machines may be busy. Without the package's own costs most expressions take
// seconds.
func TestDearExpressionsEnd(t *testing.T) {
	d := NewDocument(large(t))
	if _, err := d.variables(); err != nil {
		t.Fatal(err)
	}
	for _, source := range hostile {
		c, err := CompileCondition(source)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		_, err = c.Match(d)
		took := time.Since(start)
		runtime.ReadMemStats(&after)
		made := (after.TotalAlloc - before.TotalAlloc) >> 10
		t.Logf("%-90s %8s %6d KiB  %v", source, took.Round(10*time.Microsecond), made, err)
		// The slowest takes 50 ms on an idle machine. Without a limit some take
		// minutes.
		if took > 5*time.Second || made > 32<<10 {
			t.Errorf("%s took %v and made %d KiB", source, took, made)
		}
	}
}

func BenchmarkCondition(b *testing.B) {
	c, err := CompileCondition(`data.rating <= 2 && data.category == "bug"`)
	if err != nil {
		b.Fatal(err)
	}
	d := NewDocument([]byte(sample))
	b.ReportAllocs()
	for b.Loop() {
		if ok, err := c.Match(d); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}
