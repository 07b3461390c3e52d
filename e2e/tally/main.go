// Command tally adds up the outcomes of several `go test -json` runs, says
// again what failed and what was skipped and why, and closes with one line:
//
//	N passed, N failed, N skipped
//
// It exits 1 when a test or a package failed, when no test ran, and, where
// CI=true, when a test was skipped for any other reason than hardware that is
// missing (a reason with the words "missing hardware").
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// excuse is what a skip's reason must say to be accepted in CI.
const excuse = "missing hardware"

// event is one line of `go test -json`; see `go doc test2json`.
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
}

// tally holds the last outcome of every test, by "package test".
type tally struct {
	outcome map[string]string
	output  map[string]string
	// broken are packages that failed without a failed test: they did not
	// build, or a TestMain or a race ended them.
	broken map[string]bool
}

func newTally() *tally {
	return &tally{outcome: map[string]string{}, output: map[string]string{}, broken: map[string]bool{}}
}

func (t *tally) read(r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	failedIn := map[string]bool{}
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			continue // not of the protocol: a compiler's message, say
		}
		name := strings.TrimSpace(e.Package + " " + e.Test)
		switch e.Action {
		case "output":
			t.output[name] += e.Output
		case "pass", "fail", "skip":
			if e.Test != "" {
				t.outcome[name] = e.Action
				failedIn[e.Package] = failedIn[e.Package] || e.Action == "fail"
			} else if e.Action == "fail" && !failedIn[e.Package] {
				t.broken[e.Package] = true
			}
		}
	}
	return lines.Err()
}

// report writes the summary and tells whether all is well.
func (t *tally) report(w io.Writer, ci bool) bool {
	count := map[string]int{}
	for _, name := range slices.Sorted(maps.Keys(t.outcome)) {
		outcome := t.outcome[name]
		count[outcome]++
		switch outcome {
		case "fail":
			_, _ = fmt.Fprintf(w, "failed:  %s\n", name)
		case "skip":
			_, _ = fmt.Fprintf(w, "skipped: %s\n%s", name, t.output[name])
			if ci && !strings.Contains(t.output[name], excuse) {
				_, _ = fmt.Fprintf(w, "a skip is a failure in CI unless it names %s\n", excuse)
				count["skip"]--
				count["fail"]++
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.broken)) {
		_, _ = fmt.Fprintf(w, "failed:  %s, outside of its tests\n%s", name, t.output[name])
		count["fail"]++
	}
	well := count["fail"] == 0 && count["pass"] > 0
	_, _ = fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", count["pass"], count["fail"], count["skip"])
	return well
}

func main() {
	t := newTally()
	for _, path := range os.Args[1:] {
		if err := readFile(t, path); err != nil {
			fmt.Fprintln(os.Stderr, "tally:", err)
			os.Exit(1)
		}
	}
	if !t.report(os.Stdout, os.Getenv("CI") == "true") {
		os.Exit(1)
	}
}

func readFile(t *tally, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := t.read(f); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}
