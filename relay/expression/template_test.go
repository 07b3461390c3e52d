package expression

import (
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/event"
)

func make1(t *testing.T, source, document string) (string, bool, error) {
	t.Helper()
	c, err := CompileTemplate(source)
	if err != nil {
		t.Fatalf("%s: %v", source, err)
	}
	m, err := c.Make([]byte(document), "chat")
	return string(m.Body), m.Text, err
}

func TestTemplatesMakeCanonicalJSONInTheOrderWritten(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		`{"text": data.category, "priority": data.rating <= 2 ? "high" : "normal"}`: `{"text":"bug","priority":"high"}`,
		`{"z": 1, "a": 2.0, "m": {"y": -0.5, "b": 1e21}}`:                           `{"z":1,"a":2,"m":{"y":-0.5,"b":1e+21}}`,
		`{"b": 1, "10": 2, "9": 3}`:                                                 `{"9":3,"10":2,"b":1}`, // as V8 orders members
		`[event, timestamp, webhook.name]`:                                          `["feedback.created","2026-01-07T15:30:00Z","chat"]`,
		`{"all": data}`:                                                             `{"all":` + sample[strings.Index(sample, `"data":`)+7:len(sample)-1] + `}`,
		`data`:                                                                      sample[strings.Index(sample, `"data":`)+7 : len(sample)-1],
		`data.metadata.tags`:                                                        `["a","b"]`,
		`{"absent": data.absent, "deeper": data.absent.deeper}`:                     `{"absent":null,"deeper":null}`,
		`{"has": has(data.absent), "not": has(data.rating)}`:                        `{"has":false,"not":true}`,
		`{"keys": data.metadata.map(k, k)}`:                                         `{"keys":["plan","tags","n","nothing"]}`,
		`{"at": timestamp(timestamp) + duration("1h")}`:                             `{"at":"2026-01-07T16:30:00Z"}`,
		`{"text": "<&> \u2028 é \n"}`:                                               "{\"text\":\"<&> \u2028 é \\n\"}",
		`{"n": 9007199254740992}`:                                                   `{"n":9007199254740992}`,
	} {
		got, text, err := make1(t, source, sample)
		if err != nil || text || got != want {
			t.Errorf("%s makes\n%s\n%v, %v; want\n%s", source, got, text, err, want)
		}
		if canonical, err := event.Canonical([]byte(got)); err != nil || string(canonical) != got {
			t.Errorf("%s makes %s, which is not canonical", source, got)
		}
	}
	for source, want := range map[string]string{
		`"rated " + string(data.rating) + "\n"`: "rated 2\n",
		`data.category`:                         "bug",
	} {
		if got, text, err := make1(t, source, sample); err != nil || !text || got != want {
			t.Errorf("%s makes %q, %v, %v; want the text %q", source, got, text, err, want)
		}
	}
}

func TestTemplatesMakeTheSameBytesEachTime(t *testing.T) {
	t.Parallel()
	const source = `{"data": data, "k1": 1, "k2": 2, "k3": {"a": data.context, "b": data.metadata}, "k4": 4}`
	want, _, err := make1(t, source, sample)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if got, _, _ := make1(t, source, sample); got != want {
			t.Fatalf("once it makes\n%s\nand once\n%s", want, got)
		}
	}
}

func TestTemplatesThatFailSayWhy(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		`{"text": data.absent + "x"}`:        "no such overload",
		`{"text": data.absent.size()}`:       "no such overload",
		`data.rating`:                        "it gives a double, not a map, a list or a string",
		`data.absent`:                        "it gives null, not a map, a list or a string",
		`{"at": timestamp(data.category)}`:   "…",
		`{"n": 0.0 / 0.0}`:                   "which JSON does not have",
		`{"n": 9007199254740993}`:            "what JSON cannot hold",
		`{"b": b"x"}`:                        "it gives a bytes, which JSON does not have",
		`{data.category: 1, "bug": 2}`:       "a key is there twice",
		`{1: 2}`:                             "a key that is not a text",
		`{data.absent: 1}`:                   "null cannot be the key of a map",
		`{"type": type(data)}`:               "which JSON does not have",
		`{"list": data.metadata.tags + [1]}`: "",
	} {
		got, _, err := make1(t, source, sample)
		if want == "" {
			if err != nil {
				t.Errorf("%s: %v", source, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) || got != "" || strings.Contains(err.Error(), "bug") {
			t.Errorf("%s makes %q, %v; want an error with %q", source, got, err, want)
		}
	}
}

func TestWrongTemplatesAreRefusedWithTheirPosition(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		`{"text": data.message`:    "1:22: ",
		`slak`:                     "1:1: undeclared reference to 'slak'",
		`data.rating <= 2`:         "1:13: gives a bool; it must give a map, a list or a string",
		"{\"a\": 1,\n \"b\": foo}": "2:7: undeclared reference to 'foo'",
		`{"a": data.message.matches("(\\pL|\\pN){999}")}`:                                           "1:",
		`[data.a.map(a, data.a.map(b, data.a.map(c, data.a.map(d, d))))]`:                           "nested too deeply",
		`{"a": ` + manyOf(60) + `.map(a, ` + manyOf(60) + `.map(b, ` + manyOf(60) + `.map(c, a)))}`: ErrTooDear.Error(),
		`{"a": ` + manyOf(1000) + `.map(a, "` + strings.Repeat("x", 500) + `")}`:                    "256 KiB",
	} {
		if _, err := CompileTemplate(source); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") ||
			!strings.HasPrefix(strings.TrimLeft(err.Error(), "0123456789"), ":") {
			t.Errorf("%.80s: want one line with a position and %q, got %v", source, want, err)
		}
	}
	if _, err := CompileCondition(`timestamp == webhook.name`); err == nil {
		t.Error("a condition may use timestamp and webhook, which filters do not have")
	}
}

// TestDearTemplatesEnd: whatever a template does with a large document, it ends by itself
// after some milliseconds, and makes at most some megabytes on the way.
func TestDearTemplatesEnd(t *testing.T) {
	document := large(t)
	sources := []string{
		`{"a": data.list.map(x, data)}`,
		`data.list.map(x, data.list)`,
		`data.list.map(x, data.message + x)`,
		`data.list.map(x, {"a": data.message, "b": data})`,
		`{"a": [data, data, data, data, data, data, data, data]}`,
		`data.message + data.message + data.message + data.message + data.message`,
		`{"a": data.message.matches("(\\pL|\\pN){40}!")}`,
		`data.list.map(a, data.list.map(b, data.list.map(c, [a, b, c])))`,
		`data.nested.map(x, data.nested.map(y, {"x": x, "y": y}))`,
		`data.list.map(x, string(bytes(data.message)))`,
	}
	for _, condition := range hostile {
		sources = append(sources, `{"a": `+condition+`}`)
	}
	for _, source := range sources {
		c, err := CompileTemplate(source)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		m, err := c.Make(document, "chat")
		body := m.Body
		took := time.Since(start)
		runtime.ReadMemStats(&after)
		made := (after.TotalAlloc - before.TotalAlloc) >> 10
		t.Logf("%-90s %8s %6d KiB  %d bytes, %v", source, took.Round(10*time.Microsecond), made, len(body), err)
		if took > 5*time.Second || made > 40<<10 || len(body) > MaxBody {
			t.Errorf("%s took %v and made %d KiB for %d bytes", source, took, made, len(body))
		}
		if err != nil && len(body) != 0 {
			t.Errorf("%s failed and left %d bytes", source, len(body))
		}
	}
	if c, err := CompileTemplate(`{"a": [data, data, data, data]}`); err != nil {
		t.Error(err)
	} else if _, err := c.Make(document, "chat"); !errors.Is(err, errTooLong) {
		t.Errorf("four large documents in one body give %v, want %v", err, errTooLong)
	}
}

func BenchmarkTemplate(b *testing.B) {
	c, err := CompileTemplate(`{"text": data.category, "priority": data.rating <= 2 ? "high" : "normal"}`)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Make([]byte(sample), "chat"); err != nil {
			b.Fatal(err)
		}
	}
}
