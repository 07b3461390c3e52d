package event

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"
)

// manyOf is an object with n members, about 8 bytes each.
func manyOf(n int, value string) []byte {
	b := []byte(`{"message":"m","metadata":{`)
	for i := range n {
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, `"a%d":%s`, i, value)
	}
	return append(b, `}}`...)
}

// TestMergeTakesTimeInProportion compares a merge of many members with parsing
// them. When each member was looked for among all, it took 500 times as long.
func TestMergeTakesTimeInProportion(t *testing.T) {
	const members = 8000
	stored := slices.Concat([]byte(`{"event":"feedback.created","data":`), manyOf(members, `2`), []byte{'}'})
	for _, value := range []string{`1`, `null`, `{"x":1}`} {
		patch, err := ParsePatch(manyOf(members, value))
		if err != nil {
			t.Fatal(err)
		}
		parse, merge := time.Hour, time.Hour // the fastest of several runs: the machine may be busy
		for range 5 {
			start := time.Now()
			f, err := Stored(stored)
			if err != nil {
				t.Fatal(err)
			}
			parse = min(parse, time.Since(start))
			start = time.Now()
			if changed, err := f.Merge(patch); err != nil || !changed {
				t.Fatalf("changed %v, %v", changed, err)
			}
			merge = min(merge, time.Since(start))
			f.Release()
		}
		t.Logf("%s: parsing takes %v, merging %v", value, parse, merge)
		if merge > 60*parse {
			t.Errorf("%s: parsing takes %v, merging %v", value, parse, merge)
		}
	}
}

func TestMergeKeepsTheOrderOfMembers(t *testing.T) {
	t.Parallel()
	f := parsed(t, `{"message":"m","metadata":{"a":1,"b":2,"c":{"x":1},"d":4}}`)
	p, err := ParsePatch([]byte(`{"metadata":{"e":5,"d":null,"c":{"y":{"z":null}},"b":[3],"a":{"q":null}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if changed, err := f.Merge(p); err != nil || !changed {
		t.Fatalf("changed %v, %v", changed, err)
	}
	if got := document(t, f, Updated); !bytes.Contains([]byte(got), []byte(`"metadata":{"a":{},"b":[3],"c":{"x":1,"y":{}},"e":5}`)) {
		t.Errorf("got %s", got)
	}
}

func TestMergeTakesTheTimeOfCreationAsClientsWriteIt(t *testing.T) {
	t.Parallel()
	for createdAt, ok := range map[string]bool{
		"2026-01-07T15:30:00Z": true, "2026-01-07T15:30:00.123Z": true, "2026-01-07T16:30:00+01:00": true, "2026-01-07T15:30:01Z": false, "today": false,
	} {
		f := parsed(t, `{"message":"m","createdAt":"2026-01-07T15:30:00Z"}`)
		p, err := ParsePatch([]byte(`{"status":"done","createdAt":"` + createdAt + `"}`))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Merge(p); (err == nil) != ok {
			t.Errorf("%s: %v", createdAt, err)
		}
		if got := document(t, f, Updated); !bytes.Contains([]byte(got), []byte(`"createdAt":"2026-01-07T15:30:00Z"`)) {
			t.Errorf("%s makes %s", createdAt, got)
		}
	}
}
