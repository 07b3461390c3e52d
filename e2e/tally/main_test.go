package main

import (
	"strings"
	"testing"
)

const run = `{"Action":"pass","Package":"a","Test":"TestOne"}
not json
{"Action":"output","Package":"a","Test":"TestTwo","Output":"    a_test.go:1: no node here\n"}
{"Action":"skip","Package":"a","Test":"TestTwo"}
{"Action":"pass","Package":"a"}
`

func TestReport(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, runs string
		ci, well   bool
		last       string
	}{
		{"a skip is fine at home", run, false, true, "1 passed, 0 failed, 1 skipped"},
		{"a skip fails in CI", run, true, false, "1 passed, 1 failed, 0 skipped"},
		{"missing hardware is excused", strings.Replace(run, "no node", "missing hardware: no GPU", 1), true, true, "1 passed, 0 failed, 1 skipped"},
		{"a failed test", run + `{"Action":"fail","Package":"b","Test":"TestThree"}` + "\n" + `{"Action":"fail","Package":"b"}`, false, false, "1 passed, 1 failed, 1 skipped"},
		{"a package that does not build", run + `{"Action":"fail","Package":"b"}`, false, false, "1 passed, 1 failed, 1 skipped"},
		{"no test at all", "", false, false, "0 passed, 0 failed, 0 skipped"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			sum := newTally()
			if err := sum.read(strings.NewReader(c.runs)); err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			if well := sum.report(&out, c.ci); well != c.well {
				t.Errorf("well = %t, want %t", well, c.well)
			}
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			if last := lines[len(lines)-1]; last != c.last {
				t.Errorf("last line %q, want %q", last, c.last)
			}
		})
	}
}
