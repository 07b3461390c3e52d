package event

import (
	"strings"
	"testing"
)

// answered is an application's answer to a submission that makes an event of
// type typ; nil if it represents no feedback.
func answered(t *testing.T, text string, typ Type) *Answer {
	t.Helper()
	a, err := ParseAnswer([]byte(text), typ)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return a
}

func TestAppDecidesAndTheVisitorsWordsStay(t *testing.T) {
	t.Parallel()
	const visitor = `{"message":"m","category":"bug","rating":2,"status":"mine","context":{"pageUrl":"/x"},"metadata":{"plan":"pro"}}`
	const words = `"message":"m","category":"bug","rating":2,`
	const rest = `"context":{"pageUrl":"/x"},"metadata":{"plan":"pro"}`
	for answer, want := range map[string]string{
		// Laravel, Rails, a hand-written one: no id, so not about the feedback.
		`{"success":true,"message":"Thank you for your feedback!"}`:      words + `"status":"mine",` + rest,
		`{"status":"success","data":null}`:                               words + `"status":"mine",` + rest,
		`{"status":"success","data":{"message":"Thanks","metadata":{}}}`: words + `"status":"mine",` + rest,
		`{"id":null,"status":"success"}`:                                 words + `"status":"mine",` + rest,
		`{"id":true,"status":"success"}`:                                 words + `"status":"mine",` + rest,
		`{"data":[{"id":1}],"status":"success"}`:                         words + `"status":"mine",` + rest,
		`{"data":"{\"id\":1}","status":"success"}`:                       words + `"status":"mine",` + rest,
		`[{"id":1}]`:                  words + `"status":"mine",` + rest,
		`"id"`:                        words + `"status":"mine",` + rest,
		`<!doctype html><p>Thank you`: words + `"status":"mine",` + rest,
		``:                            words + `"status":"mine",` + rest,
		`{"id":"a","status":"open","message":"Thanks","metadata":{"x":1},"new":1}`: `"id":"a",` + words + `"status":"open",` + rest,
		`{"data":{"id":42,"status":"open"},"message":"Created","status":"ok"}`:     `"id":"42",` + words + `"status":"open",` + rest,
		"\uFEFF" + `{"id":42}`:                     `"id":"42",` + words + `"status":"mine",` + rest,
		`{"id":"request-1","data":{"id":"a"}}`:     `"id":"a",` + words + `"status":"mine",` + rest,
		`{"id":"a","data":{"x":1}}`:                `"id":"a",` + words + `"status":"mine",` + rest,
		`{"id":"a","category":null,"status":null}`: `"id":"a",` + words + `"status":"mine",` + rest,
		// What no event can hold is passed over, and the rest is read.
		`{"id":1234567890123456789,"seq":18446744073709551615}`:        `"id":"1234567890123456789",` + words + `"status":"mine",` + rest,
		`{"id":9007199254740993,"status":5,"createdAt":"yesterday"}`:   `"id":"9007199254740993",` + words + `"status":"mine",` + rest,
		`{"id":"a","x":"\ud800","y":1e400,"__proto__":1,"status":"s"}`: `"id":"a",` + words + `"status":"s",` + rest,
		`{"id":"a","status":"one","status":"two"}`:                     `"id":"a",` + words + `"status":"two",` + rest,
		`{"id":"a","status":"s","message":"breaks o`:                   `"id":"a",` + words + `"status":"s",` + rest,
		`{"data":{"id":"a","status":"s","message":"breaks o`:           `"id":"a",` + words + `"status":"s",` + rest,
		`{"id":"a","projectId":"p","widgetId":"w","screenshotUrl":"https://x.example/1.png","createdAt":"2026-01-07T16:30:00.5+01:00"}`: `"id":"a","projectId":"p","widgetId":"w",` +
			words + `"status":"mine","screenshotUrl":"https://x.example/1.png",` + rest + `,"createdAt":"2026-01-07T15:30:00Z"`,
	} {
		f := parsed(t, visitor)
		f.Override(answered(t, answer, Created))
		if got := document(t, f, Created); !strings.HasSuffix(got, `"data":{`+want+`}}`) {
			t.Errorf("%s makes %s", answer, got)
		}
	}
}

func TestAnswerWhoseIDNoEventCanHoldIsAnError(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{`{"id":"gid://app/Feedback/1"}`, `{"id":""}`, `{"id":1e+9}`, `{"data":{"id":"a b"}}`, `{"id":"` + strings.Repeat("a", 129) + `"}`} {
		if a, err := ParseAnswer([]byte(answer), Updated); a != nil || err == nil || !strings.Contains(err.Error(), "/id") {
			t.Errorf("%s: %v, %v", answer, a, err)
		}
	}
}

func TestUpdatesAnswerWinsButForIdentity(t *testing.T) {
	t.Parallel()
	stored := parsed(t, `{"message":"m","id":"1","projectId":"p","createdAt":"2026-01-07T15:30:00Z","status":"new","category":"bug","metadata":{"a":1},"extra":1}`)
	doc := document(t, stored, Created)
	for _, c := range []struct{ patch, answer, want string }{
		{`{"status":"done"}`, `{"ok":true,"message":"Updated!"}`, `"message":"m","category":"bug","status":"done","metadata":{"a":1},"createdAt":"2026-01-07T15:30:00Z","extra":1`},
		{`{"status":"done"}`, `{"id":1,"status":"closed"}`, `"message":"m","category":"bug","status":"closed","metadata":{"a":1},"createdAt":"2026-01-07T15:30:00Z","extra":1`},
		{``, `{"id":1,"status":"closed","category":null,"extra":null,"message":null,"metadata":{"b":2},"by":"ada"}`,
			`"message":"m","status":"closed","metadata":{"b":2},"createdAt":"2026-01-07T15:30:00Z","by":"ada"`},
		{`{"rating":9}`, `{"id":1,"rating":5,"category":"ok"}`, `"message":"m","category":"ok","rating":5,"status":"new","metadata":{"a":1},"createdAt":"2026-01-07T15:30:00Z","extra":1`},
		// A client that sends back the whole as it got it.
		{`{"id":1,"projectId":7,"createdAt":"2026-01-07T15:30:00.123Z","status":"done"}`, `{"id":"2","projectId":"q","createdAt":"2020-01-01T00:00:00Z","rating":1}`,
			`"message":"m","category":"bug","rating":1,"status":"done","metadata":{"a":1},"createdAt":"2026-01-07T15:30:00Z","extra":1`},
	} {
		f, err := Stored([]byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		var p *Patch
		if c.patch != "" {
			if p, err = ParsePatch([]byte(c.patch)); err != nil {
				t.Fatal(err)
			}
		}
		if changed, err := f.MergeAccepted(p, answered(t, c.answer, Updated)); err != nil || !changed {
			t.Errorf("%s, %s: changed %v, %v", c.patch, c.answer, changed, err)
		}
		if got := document(t, f, Updated); !strings.HasSuffix(got, `"data":{"id":"1","projectId":"p",`+c.want+`}}`) {
			t.Errorf("%s, %s make %s", c.patch, c.answer, got)
		}
	}
}

func TestWholeAnswerIsFeedbackByItself(t *testing.T) {
	t.Parallel()
	p, err := ParsePatch([]byte(`{"id":"other","status":"mine","note":"n"}`))
	if err != nil {
		t.Fatal(err)
	}
	a := answered(t, `{"data":{"id":7,"message":"hi","status":"done","createdAt":"2026-01-07T15:30:00Z","team":null}}`, Updated)
	if !a.Whole() || a.ID() != "7" {
		t.Errorf("whole: %v, id %q", a.Whole(), a.ID())
	}
	f, err := Represented(a, p)
	if err != nil {
		t.Fatal(err)
	}
	if got := document(t, f, Updated); !strings.HasSuffix(got, `"data":{"id":"7","message":"hi","status":"done","createdAt":"2026-01-07T15:30:00Z","note":"n"}}`) {
		t.Errorf("it makes %s", got)
	}
	part := answered(t, `{"id":7,"status":"done","message":"  "}`, Updated)
	if _, err := Represented(part, nil); err == nil {
		t.Error("an answer without a message made feedback")
	}
}

// TestMergedDocumentNestsAtMost64: what a change and an answer may nest is what
// the finished document can hold.
func TestMergedDocumentNestsAtMost64(t *testing.T) {
	t.Parallel()
	nested := func(levels int) string {
		return strings.Repeat(`{"a":`, levels) + `1` + strings.Repeat(`}`, levels)
	}
	const others = 3 // the document, data and the answer's own object: metadata is the third level
	for levels, ok := range map[int]bool{MaxDepth - others + 1: true, MaxDepth - others + 2: false} {
		f := parsed(t, `{"message":"m","id":"1"}`)
		a := answered(t, `{"id":1,"metadata":`+nested(levels)+`,"status":"s"}`, Updated)
		if (a.Unread() == nil) != ok {
			t.Errorf("%d levels of an answer: %v", levels, a.Unread())
		}
		if _, err := f.MergeAccepted(nil, a); err != nil {
			t.Errorf("%d levels: %v", levels, err)
		}
		doc := document(t, f, Updated)
		if _, err := Stored([]byte(doc)); err != nil || strings.Contains(doc, `"metadata"`) != ok {
			t.Errorf("%d levels of an answer make %s, which reads as %v", levels, doc, err)
		}
		p, err := ParsePatch([]byte(`{"metadata":` + nested(levels) + `}`))
		if (err == nil) != ok {
			t.Errorf("%d levels of a change: %v", levels, err)
		}
		if err != nil {
			continue
		}
		if _, err := f.Merge(p); err != nil {
			t.Errorf("%d levels: %v", levels, err)
		}
		if _, err := Stored([]byte(document(t, f, Updated))); err != nil {
			t.Errorf("%d levels of a change make a document that reads as %v", levels, err)
		}
	}
}
