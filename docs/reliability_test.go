// Package docs holds what is written about the relay; its tests keep that true.
package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReliabilityNamesWhatExists: every test, folder and file that
// reliability.md names is there, and every file it names has a marked line.
func TestReliabilityNamesWhatExists(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 5 && len(cells) != 3 {
			continue
		}
		tests, folder := cells[len(cells)-2], code(cells[len(cells)-1])
		if !strings.Contains(tests, "`Test") && !strings.Contains(tests, "`Fuzz") {
			continue
		}
		rows++
		for _, test := range regexp.MustCompile("`((?:Test|Fuzz)\\w+)").FindAllStringSubmatch(tests, -1) {
			if !declares(t, folder, test[1]) {
				t.Errorf("%s has no %s: %s", folder, test[1], line)
			}
		}
		if len(cells) == 3 {
			continue // nothing is marked
		}
		file := code(cells[1])
		source, err := os.ReadFile(filepath.Join("..", file))
		if err != nil {
			t.Errorf("%v: %s", err, line)
		}
		if !strings.Contains(string(source), "// Promise ") && !strings.Contains(string(source), "// Guard: ") {
			t.Errorf("%s has no marked line: %s", file, line)
		}
	}
	if rows < 20 {
		t.Errorf("only %d rows were read: the table is written otherwise than this test expects", rows)
	}
}

// code is the first text between backticks.
func code(cell string) string {
	_, after, _ := strings.Cut(cell, "`")
	inside, _, _ := strings.Cut(after, "`")
	return inside
}

// declares tells whether a test file of the folder has the function.
func declares(t *testing.T, folder, test string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\nfunc "+test+"(") {
			return true
		}
	}
	return false
}
