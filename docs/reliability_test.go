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
// reliability.md names is there, and every marked line is of a file it names.
func TestReliabilityNamesWhatExists(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 5 || !strings.Contains(cells[3], "`Test") && !strings.Contains(cells[3], "`Fuzz") {
			continue
		}
		rows++
		file, folder := code(cells[1]), code(cells[4])
		for _, test := range regexp.MustCompile("`((?:Test|Fuzz)\\w+)").FindAllStringSubmatch(cells[3], -1) {
			if !declares(t, folder, test[1]) {
				t.Errorf("%s has no %s: %s", folder, test[1], line)
			}
		}
		if _, err := os.Stat(filepath.Join("..", file)); err != nil {
			t.Errorf("%v: %s", err, line)
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
