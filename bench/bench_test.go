package main

import (
	"bytes"
	"encoding/json"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestSubmissionIsOneKibibyteOfValidJSON(t *testing.T) {
	t.Parallel()
	for _, n := range []uint64{0, 7, 999_999_999_999} {
		for _, body := range [][]byte{submission(nil, n), bareSubmission(nil, n)} {
			if len(body) != 1024 || !json.Valid(body) {
				t.Errorf("%d bytes: %s", len(body), body)
			}
			if got, ok := number(body); !ok || got != n {
				t.Errorf("number %d, %t, want %d", got, ok, n)
			}
		}
	}
	if _, ok := number(bytes.Repeat([]byte("x"), 40)); ok {
		t.Error("a number where there is none")
	}
}

// TestLoudRunsAreNotJudged: what others do on the machine takes the verdict away.
func TestLoudRunsAreNotJudged(t *testing.T) {
	t.Parallel()
	r := row{name: "x", compare: alone, least: 10}
	for why, n := range map[string]noise{"": {Foreign: 0.01, Sync: 5}, "stolen": {Stolen: 0.02}, "other processes": {Foreign: 0.2}, "a sync": {Sync: 100}} {
		f := newFigure(r, []float64{8}, nil, n, 0)
		if want := why == ""; (f.Loud == "") != want || !strings.Contains(f.Loud, why) {
			t.Errorf("%+v: %q", n, f.Loud)
		}
		if f.failed() != (why == "") {
			t.Errorf("%+v: failed is %t", n, f.failed())
		}
	}
	for result, failed := range map[float64]bool{10: false, 9.2: false, 8.9: true} {
		if f := newFigure(r, []float64{result}, nil, noise{}, 0.1); f.failed() != failed {
			t.Errorf("%v with a margin of a tenth: failed is %t", result, f.failed())
		}
	}
	r = row{name: "x", compare: alone, most: 10}
	for result, failed := range map[float64]bool{10: false, 10.9: false, 11.2: true} {
		if f := newFigure(r, []float64{result}, nil, noise{}, 0.1); f.failed() != failed {
			t.Errorf("%v of at most 10 with a margin of a tenth: failed is %t", result, f.failed())
		}
	}
}

// TestPartsOfAProfile: a stack counts for the innermost part that knows it, once.
func TestPartsOfAProfile(t *testing.T) {
	t.Parallel()
	took, all := partsOf([]byte(`File: caddy
Type: cpu
Duration: 10s, Total samples = 130ms ( 1.3%)
-----------+-------------------------------------------------------
      10ms   runtime.memmove
             github.com/dgraph-io/badger/v4/table.(*Builder).addHelper (inline)
             github.com/dgraph-io/badger/v4.(*levelsController).subcompact
-----------+-------------------------------------------------------
     100ms   internal/runtime/syscall/linux.Syscall6
             github.com/userhero/relay/relay/deliver/lean.(*exchange).do
             net/http.(*Client).do
             github.com/userhero/relay/relay.(*webhook).deliver
-----------+-------------------------------------------------------
      20ms   runtime.findRunnable
`))
	if all != 130*time.Millisecond || took["flushing and merging tables"] != 10*time.Millisecond || took["sending"] != 100*time.Millisecond || took[otherPart] != 20*time.Millisecond {
		t.Errorf("%v: %v", all, took)
	}
}

// TestForeignWorkIsHeard: another process that computes is noise, this one is not.
func TestForeignWorkIsHeard(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/stat"); err != nil {
		return // the system does not report it
	}
	before := machineTimes()
	for began := time.Now(); time.Since(began) < 300*time.Millisecond; {
		runtime.Gosched()
	}
	after := machineTimes()
	if own := after.own - before.own; own < 20*time.Millisecond {
		t.Errorf("%v of 300 ms are its own", own)
	}
	if after.busy-before.busy < (after.own-before.own)/2 {
		t.Errorf("the machine was busy for %v, of which %v are its own", after.busy-before.busy, after.own-before.own)
	}
}

func TestMedian(t *testing.T) {
	t.Parallel()
	if median([]float64{3, 1, 2}) != 2 || median([]float64{4, 1, 2, 3}) != 2.5 || median(nil) != 0 {
		t.Error("not the median")
	}
}
