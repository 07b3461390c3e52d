package event

import (
	"bytes"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var noon = time.Date(2026, 1, 7, 15, 30, 0, 999, time.FixedZone("", 3600))

func document(t testing.TB, f *Feedback, typ Type) string {
	t.Helper()
	doc, err := f.Document(typ, noon)
	if err != nil {
		t.Fatal(err)
	}
	return string(doc)
}

func parsed(t testing.TB, body string) *Feedback {
	t.Helper()
	f, err := Parse([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestDocumentHasTheDocumentedOrder(t *testing.T) {
	t.Parallel()
	f := parsed(t, `{"zeta":{"b":1,"a":[2]},"metadata":{"userId":"user_123"},"10":"index","screenshotUrl":"https://x.example/a.png",
		"context":{"more":true,"country":"US","locale":"en-US","timezone":"America/New_York","viewport":{"depth":2,"height":1080,"width":1920},
		"deviceType":"desktop","os":"macOS","browserVersion":"120","browser":"Chrome","referrer":"/dashboard","pageUrl":"/dashboard/reports"},
		"status":null,"rating":2.0,"category":"bug","message":"…","widgetId":"w_default","projectId":"proj_xyz","alpha":null}`)
	f.Complete(noon, func(time.Time) string { return "fb_abc123" })
	want := `{"event":"feedback.created","timestamp":"2026-01-07T14:30:00Z","data":{"10":"index","id":"fb_abc123","projectId":"proj_xyz",` +
		`"widgetId":"w_default","message":"…","category":"bug","rating":2,"status":"new","screenshotUrl":"https://x.example/a.png",` +
		`"context":{"pageUrl":"/dashboard/reports","referrer":"/dashboard","browser":"Chrome","browserVersion":"120","os":"macOS",` +
		`"deviceType":"desktop","viewport":{"width":1920,"height":1080,"depth":2},"timezone":"America/New_York","locale":"en-US",` +
		`"country":"US","more":true},"metadata":{"userId":"user_123"},"createdAt":"2026-01-07T14:30:00Z","zeta":{"b":1,"a":[2]},"alpha":null}}`
	if got := document(t, f, Created); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestNothingPresentIsOverwritten(t *testing.T) {
	t.Parallel()
	f := parsed(t, `{"message":"m","id":"mine","status":"open","createdAt":"2020-02-03T04:05:06.789+01:00","projectId":"p","context":{"browser":"Lynx","viewport":{"width":1,"height":2}}}`)
	f.Fill(Defaults{Project: "other", Widget: "w", Context: Context{Browser: "Chrome", OS: "macOS"}})
	f.Complete(noon, NewID)
	want := `"data":{"id":"mine","projectId":"p","widgetId":"w","message":"m","status":"open","context":{"browser":"Lynx","os":"macOS","viewport":{"width":1,"height":2}},"createdAt":"2020-02-03T03:05:06Z"}}`
	if got := document(t, f, Created); !strings.HasSuffix(got, want) {
		t.Errorf("got %s", got)
	}
	if f.ID() != "mine" || f.get("status") != "open" || f.get("createdAt") != "2020-02-03T03:05:06Z" || f.ProjectID() != "p" {
		t.Errorf("accessors: %q %q %q %q", f.ID(), f.get("status"), f.get("createdAt"), f.ProjectID())
	}
}

func TestRefusalsPointAtTheirCause(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		body     string
		status   int
		pointers string
	}{
		{``, 400, ""},
		{`{"message":"m"`, 400, ""},
		{`{"message":"m"} x`, 400, ""},
		{`{"message":"m",}`, 400, ""},
		{`{'message':'m'}`, 400, ""},
		{"\ufeff{}", 400, ""},
		{`{"message":"m","a/b~":{"c":[0,x]}}`, 400, "/a~1b~0/c/1"},
		{"{\"message\":\"a\nb\"}", 400, "/message"},
		{"{\"message\":\"\xff\"}", 400, ""},
		{`{"message":"m","a":{"x":1,"\u0078":2}}`, 400, "/a/x"},
		{`[]`, 422, ""},
		{`{}`, 422, "/message"},
		{`{"message":null}`, 422, "/message"},
		{`{"message":""}`, 422, "/message"},
		{`{"message":7}`, 422, "/message"},
		{`{"message":"m","rating":0,"category":1,"context":[],"metadata":"x"}`, 422, "/category /rating /context /metadata"},
		{`{"message":"m","rating":4.5}`, 422, "/rating"},
		{`{"message":"m","rating":"5"}`, 422, "/rating"},
		{`{"message":"m","screenshotUrl":"javascript:alert(1)"}`, 422, "/screenshotUrl"},
		{`{"message":"m","screenshotUrl":"/x.png"}`, 422, "/screenshotUrl"},
		{`{"message":"m","createdAt":"yesterday"}`, 422, "/createdAt"},
		{`{"message":"m","id":"a/b"}`, 422, "/id"},
		{`{"message":"m","id":""}`, 422, "/id"},
		{`{"message":"m","context":{"pageUrl":1,"viewport":{"width":"1"}}}`, 422, "/context/pageUrl /context/viewport/width"},
		{`{"message":"m","metadata":{"n":9007199254740993}}`, 422, "/metadata/n"},
		{`{"message":"m","metadata":{"n":9223372036854775808}}`, 422, "/metadata/n"},
		{`{"message":"m","metadata":{"n":-18446744073709551615}}`, 422, "/metadata/n"},
		{`{"message":"m","metadata":{"n":[1,-1e400]}}`, 422, "/metadata/n/1"},
		{"{\"message\":\" \\t\\n\u00a0\u3000\ufeff\"}", 422, "/message"},
		{`{"message":"m","metadata":{"__proto__":1}}`, 422, "/metadata/__proto__"},
		{`{"message":"m","metadata":{"\u005f_proto__":1}}`, 422, "/metadata/__proto__"},
		{`{"message":"\ud800"}`, 422, "/message"},
		{`{"message":"m","a":` + strings.Repeat("[", 63) + strings.Repeat("]", 63) + `}`, 422, "/a" + strings.Repeat("/0", 62)},
	} {
		_, err := Parse([]byte(c.body))
		p, ok := err.(*Problem) //nolint:errorlint // it is returned bare
		if !ok {
			t.Errorf("%.60s: %v", c.body, err)
			continue
		}
		var pointers []string
		for _, e := range p.Errors {
			pointers = append(pointers, e.Pointer)
		}
		want := strings.Split(c.pointers, " ")
		slices.Sort(want)
		slices.Sort(pointers)
		if p.Status != c.status || !slices.Equal(pointers, want) {
			t.Errorf("%.60s: status %d at %q, want %d at %q: %v", c.body, p.Status, pointers, c.status, want, p)
		}
	}
}

// TestDepthIsThatOfTheFinishedDocument holds submissions and changes that make
// a document of exactly MaxDepth levels against those that make one more.
func TestDepthIsThatOfTheFinishedDocument(t *testing.T) {
	t.Parallel()
	lists := func(depth int) string { return strings.Repeat("[", depth) + strings.Repeat("]", depth) }
	objects := func(depth int) string { return strings.Repeat(`{"a":`, depth) + "1" + strings.Repeat("}", depth) }
	const room = MaxDepth - 2 // below a member of data
	base := document(t, parsed(t, `{"message":"m","metadata":{"a":1}}`), Created)
	for name, nested := range map[string]func(int) string{"lists": lists, "objects": objects} {
		f, err := Parse([]byte(`{"message":"m","deep":` + nested(room) + `}`))
		if err != nil {
			t.Fatalf("%s: %d levels below a member are refused: %v", name, room, err)
		}
		doc := document(t, f, Created)
		if _, err := Stored([]byte(doc)); err != nil {
			t.Errorf("%s: what was accepted cannot be read again: %v", name, err)
		}
		if _, err := Canonical([]byte(doc)); err != nil {
			t.Errorf("%s: what was accepted cannot be forwarded: %v", name, err)
		}
		if _, err := Parse([]byte(`{"message":"m","deep":` + nested(room+1) + `}`)); err == nil || !strings.Contains(err.Error(), "/deep/") {
			t.Errorf("%s: a document of %d levels: %v, want a refusal that points into /deep", name, MaxDepth+1, err)
		}

		stored, err := Stored([]byte(base))
		if err != nil {
			t.Fatal(err)
		}
		change, err := ParsePatch([]byte(`{"metadata":{"a":` + nested(room-1) + `}}`))
		if err != nil {
			t.Fatalf("%s: a change that makes %d levels is refused: %v", name, MaxDepth, err)
		}
		if _, err := stored.Merge(change); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := Stored([]byte(document(t, stored, Updated))); err != nil {
			t.Errorf("%s: what was changed cannot be read again: %v", name, err)
		}
		if _, err := ParsePatch([]byte(`{"metadata":{"a":` + nested(room) + `}}`)); err == nil || !strings.Contains(err.Error(), "/metadata/a/") {
			t.Errorf("%s: a change that makes %d levels: %v, want a refusal that points into /metadata/a", name, MaxDepth+1, err)
		}
	}
	if _, err := Stored([]byte(`{"event":"feedback.created","timestamp":"2026-01-07T14:30:00Z","data":{"message":"m","deep":` + lists(room+1) + `}}`)); err != nil {
		t.Errorf("a document that earlier versions accepted cannot be read: %v", err)
	}
	for depth, ok := range map[int]bool{room: true, room + 1: false} {
		fields := url.Values{"message": {"m"}, "deep" + strings.Repeat(".a", depth): {"1"}}
		f, err := ParseForm(fields)
		if (err == nil) != ok {
			t.Errorf("a form with a name of %d parts: %v", depth+1, err)
		}
		if err == nil {
			if _, err := Stored([]byte(document(t, f, Created))); err != nil {
				t.Errorf("a form with a name of %d parts cannot be read again: %v", depth+1, err)
			}
		}
	}
}

// TestTimesAreThoseOfRFC3339 has the valid and invalid times of the JSON Schema
// test suite's date-time format, and what Go's parser takes beyond the RFC.
func TestTimesAreThoseOfRFC3339(t *testing.T) {
	t.Parallel()
	for written, want := range map[string]string{
		"2026-01-07T15:30:00Z":                                 "2026-01-07T15:30:00Z",
		"2026-01-07t15:30:00z":                                 "2026-01-07T15:30:00Z",
		"2026-01-07T15:30:00.123Z":                             "2026-01-07T15:30:00Z",
		"2026-01-07T15:30:00.5+02:00":                          "2026-01-07T13:30:00Z", // Java's OffsetDateTime
		"2026-01-07T15:30:00.999999999Z":                       "2026-01-07T15:30:00Z",
		"2026-01-07T15:30:00.1234567-00:00":                    "2026-01-07T15:30:00Z", // .NET
		"2026-01-07T15:30:00." + strings.Repeat("9", 40) + "Z": "2026-01-07T15:30:00Z",
		"2024-02-29T00:00:00-23:59":                            "2024-02-29T23:59:00Z",
		"1998-12-31T23:59:60Z":                                 "1999-01-01T00:00:00Z",
		"1998-12-31t23:59:60.9z":                               "1999-01-01T00:00:00Z",
		"1998-12-31T15:59:60.123-08:00":                        "1999-01-01T00:00:00Z",
		"2017-01-01T05:29:60+05:30":                            "2017-01-01T00:00:00Z",
		"0000-01-01T00:00:00Z":                                 "0000-01-01T00:00:00Z",
		"9999-12-31T23:59:59Z":                                 "9999-12-31T23:59:59Z",

		"":                              "",
		"2026-01-07":                    "",
		"2026-01-07T15:30Z":             "",
		"2026-01-07 15:30:00Z":          "",
		"2026-01-07T15:30:00":           "",
		"2026-01-07T5:30:00Z":           "",
		"2026-01-07T15:30:0Z":           "",
		"2026-1-07T15:30:00Z":           "",
		"2026-01-07T15:30:00,5Z":        "",
		"2026-01-07T15:30:00.Z":         "",
		"2026-01-07T15:30:00+24:00":     "",
		"2026-01-07T15:30:00+02:60":     "",
		"2026-01-07T15:30:00+0200":      "",
		"2026-01-07T15:30:00+02":        "",
		"2026-01-07T15:30:00UTC":        "",
		"2026-01-07T15:30:00Z+02:00":    "",
		"2026-01-07T15:30:00 Z":         "",
		" 2026-01-07T15:30:00Z":         "",
		"2026-01-07T15:30:00Z ":         "",
		"2026-01-07T24:00:00Z":          "",
		"2026-01-07T15:60:00Z":          "",
		"2026-01-07T15:30:60Z":          "",
		"1998-12-31T23:58:60Z":          "",
		"1998-12-31T22:59:60Z":          "",
		"1998-12-31T23:59:60+01:00":     "",
		"1998-12-31T23:59:61Z":          "",
		"2026-00-07T15:30:00Z":          "",
		"2026-13-07T15:30:00Z":          "",
		"2026-01-00T15:30:00Z":          "",
		"2026-02-29T15:30:00Z":          "",
		"0000-01-01T00:00:00+00:01":     "",
		"9999-12-31T23:59:60Z":          "",
		"+2026-01-07T15:30:00Z":         "",
		"2026-01-07T15:30:00\u09ea0Z":   "",
		"2026-W02-3T15:30:00Z":          "",
		"20260107T153000Z":              "",
		"2026-01-07T15:30:-1Z":          "",
		"Wed, 07 Jan 2026 15:30:00 GMT": "",
	} {
		f, err := Parse([]byte(`{"message":"m","createdAt":"` + written + `"}`))
		got := ""
		if err == nil {
			got = f.get("createdAt")
		} else if !strings.Contains(err.Error(), "/createdAt") {
			t.Errorf("%q: %v", written, err)
		}
		if got != want {
			t.Errorf("%q is read as %q, want %q (empty is refused): %v", written, got, want, err)
		}
	}
}

func TestScreenshotsAreAnywhereOnTheWeb(t *testing.T) {
	t.Parallel()
	for address, ok := range map[string]bool{
		"https://x.example/a.png":                 true,
		"HTTPS://x.example/a.png":                 true,
		"https://x.example/100%.png":              true, // browsers send a bare % as it is
		"https://x.example/?q=50%&r=%zz#%":        true,
		"https://x.example/\u00fc b|c.png":        true,
		"http://[::1]:8080":                       true,
		"https://x.example?a":                     true,
		"https://":                                false,
		"https:///a.png":                          false,
		"https:x.example":                         false,
		"//x.example/a.png":                       false,
		"ftp://x.example/a":                       false,
		"javascript:alert(1)//https://x.example":  false,
		"data:image/png;base64,AAAA":              false,
		"https://x.example/\u0000":                false,
		"https://x.example/a\nb":                  false,
		"https://x.example:port/":                 false,
		"x://y.example/?https://x.example/hidden": false,
	} {
		if _, err := Parse([]byte(`{"message":"m","screenshotUrl":"` + address + `"}`)); (err == nil) != ok {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestFinishedDocumentIsBounded(t *testing.T) {
	t.Parallel()
	f := parsed(t, `{"message":"`+strings.Repeat("x", MaxDocument-100)+`"}`)
	doc, err := f.Document(Created, noon)
	if err != nil {
		t.Fatal(err)
	}
	room := MaxDocument - len(doc)
	f.Release()
	for extra, ok := range map[int]bool{room: true, room + 1: false} {
		f := parsed(t, `{"message":"`+strings.Repeat("x", MaxDocument-100+extra)+`"}`)
		if doc, err := f.Document(Created, noon); (err == nil) != ok {
			t.Errorf("%d bytes: %v", len(doc), err)
		}
	}
}

func TestFormsMakeTheSameFeedback(t *testing.T) {
	t.Parallel()
	f, err := ParseForm(url.Values{
		"message": {"hi"}, "rating": {"4"}, "category": {""}, "metadata.plan": {"pro"}, "metadata.team.size": {"7"},
		"context.pageUrl": {"/x"}, "context.viewport.width": {"800"}, "metadata.9": {"i"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `"data":{"message":"hi","rating":4,"context":{"pageUrl":"/x","viewport":{"width":800}},"metadata":{"9":"i","plan":"pro","team":{"size":"7"}}}}`
	if got := document(t, f, Created); !strings.HasSuffix(got, want) {
		t.Errorf("got %s", got)
	}
	for query, want := range map[string]string{
		"message=one&message=two":                             `"data":{"message":"two"}}`, // a hidden field and what script adds
		"message=m&rating=1&rating=5":                         `"data":{"message":"m","rating":5}}`,
		"message=m&category=a&category=":                      `"data":{"message":"m"}}`,
		"message=m&metadata.plan=pro":                         `"data":{"message":"m","metadata":{"plan":"pro"}}}`,
		"message=m&metadata.t=b&metadata.t=a":                 `"data":{"message":"m","metadata":{"t":["b","a"]}}}`,
		"message=m&topics=&topics=b":                          `"data":{"message":"m","topics":"b"}}`, // a hidden field and one checkbox
		"message=m&topics=a&topics=b&context.x=1&context.x=2": `"data":{"message":"m","context":{"x":["1","2"]},"topics":["a","b"]}}`,
		"message=m&context.locale=de&context.locale=en":       `"data":{"message":"m","context":{"locale":"en"}}}`,
		"message=m&=": `"data":{"message":"m"}}`,
		"message=m&context.message=1&context.message=2": `"data":{"message":"m","context":{"message":["1","2"]}}}`, // known elsewhere
	} {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		f, err := ParseForm(values)
		if err != nil {
			t.Errorf("%s: %v", query, err)
			continue
		}
		if got := document(t, f, Created); !strings.HasSuffix(got, want) {
			t.Errorf("%s makes %s, want %s", query, got, want)
		}
	}
	for query, pointer := range map[string]string{
		"message=m&message=%20":            "/message",
		"message=":                         "/message",
		"message=m&rating=many":            "/rating",
		"message=m&rating=9":               "/rating",
		"message=m&a..b=1":                 "/a//b",
		"message=m&metadata=1":             "/metadata",
		"message=m&a=1&a.b=2":              "/a/b",
		"message=m&metadata.__proto__.x=1": "/metadata/__proto__/x",
	} {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		_, err = ParseForm(values)
		p, ok := err.(*Problem) //nolint:errorlint // it is returned bare
		if !ok || len(p.Errors) != 1 || p.Errors[0].Pointer != pointer {
			t.Errorf("%s: %v, want one error at %s", query, err, pointer)
		}
	}
}

func TestMergeIsThatOfRFC7396(t *testing.T) {
	t.Parallel()
	base := parsed(t, `{"message":"m","id":"fb_1","status":"new","category":"bug","metadata":{"a":{"b":1,"c":2},"d":[1]}}`)
	base.Complete(noon, NewID)
	doc := document(t, base, Created)
	for _, c := range []struct{ change, want string }{
		{`{"status":"done"}`, `"status":"done"`},
		{`{"category":null}`, `"message":"m","status":"new","metadata"`},
		{`{"metadata":{"a":{"b":null,"e":3}}}`, `"metadata":{"a":{"c":2,"e":3},"d":[1]}`},
		{`{"metadata":{"d":{"x":null,"y":1}}}`, `"metadata":{"a":{"b":1,"c":2},"d":{"y":1}}`},
		{`{"metadata":{"2":1,"1":2}}`, `"metadata":{"1":2,"2":1,"a":`},
		{`{"rating":5,"extra":[1]}`, `"rating":5,"status":"new"`},
	} {
		f, err := Stored([]byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		p, err := ParsePatch([]byte(c.change))
		if err != nil {
			t.Fatal(err)
		}
		if changed, err := f.Merge(p); err != nil || !changed {
			t.Errorf("%s: changed %v, %v", c.change, changed, err)
		}
		if got := document(t, f, Updated); !strings.Contains(got, c.want) || !strings.HasPrefix(got, `{"event":"feedback.updated"`) {
			t.Errorf("%s makes %s", c.change, got)
		}
		if changed, err := f.Merge(p); err != nil || changed {
			t.Errorf("%s again: changed %v, %v", c.change, changed, err)
		}
	}
	for change, pointer := range map[string]string{
		`{"id":"other"}`: "/id", `{"createdAt":"2020-01-01T00:00:00Z"}`: "/createdAt", `{"message":null}`: "/message",
		`{"rating":9}`: "/rating", `{"metadata":1}`: "/metadata",
	} {
		f, err := Stored([]byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		p, err := ParsePatch([]byte(change))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Merge(p); err == nil || !strings.Contains(err.Error(), pointer) {
			t.Errorf("%s: %v, want an error at %s", change, err, pointer)
		}
	}
}

func TestIDsSortByTimeAndDiffer(t *testing.T) {
	t.Parallel()
	a, b := NewID(noon), NewID(noon.Add(time.Millisecond))
	if !strings.HasPrefix(a, "fb_") || len(a) != 29 || a >= b || NewID(noon) == a {
		t.Errorf("%s, %s", a, b)
	}
}

func TestPooledFeedbackSharesNoBytes(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 500 {
				text := strings.Repeat(fmt.Sprint(w), 1+i%50)
				f, err := Parse(fmt.Appendf(nil, `{"message":%q,"metadata":{%q:[%d]}}`, text, text, w))
				if err != nil {
					t.Error(err)
					return
				}
				doc, err := f.Document(Created, noon)
				f.Release()
				if err != nil || bytes.Count(doc, []byte(text)) < 2 || !bytes.HasSuffix(doc, fmt.Appendf(nil, `:[%d]}}}`, w)) {
					t.Errorf("%s, %v", doc, err)
				}
			}
		})
	}
	wg.Wait()
}

var sample = []byte(`{"message":"The export button does nothing when I click it twice. See the screenshot: the \"Export\" dialog stays grey.",` +
	`"category":"bug","rating":2,"context":{"pageUrl":"/dashboard/reports","viewport":{"width":1920,"height":1080},"timezone":"America/New_York"},` +
	`"metadata":{"userId":"user_123","plan":"pro","notes":"` + strings.Repeat("lorem ipsum dolor sit amet ", 24) + `"}}`)

func BenchmarkCanonical(b *testing.B) {
	b.SetBytes(int64(len(sample)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Canonical(sample); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSubmissionToDocument(b *testing.B) {
	b.SetBytes(int64(len(sample)))
	b.ReportAllocs()
	for b.Loop() {
		f, err := Parse(sample)
		if err != nil {
			b.Fatal(err)
		}
		f.Fill(Defaults{Project: "p", Widget: "w"})
		f.Complete(noon, NewID)
		if _, err := f.Document(Created, noon); err != nil {
			b.Fatal(err)
		}
		f.Release()
	}
}

func TestWhatNeedsNoEscapeEndsWhereItShould(t *testing.T) {
	t.Parallel()
	for length := range 20 {
		for at := range length {
			for c := range 256 {
				s := bytes.Repeat([]byte{0xFF}, length)
				s[at] = byte(c)
				want := length
				if c < 0x20 || c == '"' || c == '\\' {
					want = at
				}
				if got := plain(s); got != want {
					t.Fatalf("%d of % x, want %d", got, s, want)
				}
				if at > 0 && want == at { // what stands behind the first changes nothing
					s[at-1] = '!'
					if got := plain(s); got != want {
						t.Fatalf("%d of % x, want %d", got, s, want)
					}
				}
			}
		}
	}
}
