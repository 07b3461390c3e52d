package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestObservabilityNamesWhatExists: every metric of the relay is documented, and
// every metric, attribute, event and log line that is documented is in the code.
func TestObservabilityNamesWhatExists(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("observability.md")
	if err != nil {
		t.Fatal(err)
	}
	source := sources(t, "intake", "relay", "caddymodule", "queue")
	documented := make(map[string]bool)
	for _, quoted := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(string(text), -1) {
		documented[quoted[1]] = true
	}
	for _, metric := range regexp.MustCompile(`(?:Name:\s+|NewDesc\()"(userhero_[a-z_]+)"`).FindAllStringSubmatch(source, -1) {
		if !documented[metric[1]] {
			t.Errorf("%s is not documented", metric[1])
		}
	}
	for name := range documented {
		ours := strings.HasPrefix(name, "userhero_") || strings.HasPrefix(name, "userhero.") && name != "userhero."
		if ours && !strings.Contains(source, `"`+name+`"`) {
			t.Errorf("%s is documented, and nowhere in the code", name)
		}
	}
	levels := map[string]int{}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		if len(cells) < 5 || strings.ToUpper(cells[1]) != cells[1] || strings.Contains(cells[1], "-") {
			continue
		}
		for _, said := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[2], -1) {
			levels[strings.TrimSpace(cells[1])]++
			if !strings.Contains(source, `"`+said[1]+`"`) && !strings.HasPrefix(said[1], "webhook ") { // those are put together
				t.Errorf("nothing logs %q", said[1])
			}
		}
	}
	if levels["WARN"] < 5 || levels["ERROR"] < 5 {
		t.Errorf("the table of log lines is written otherwise than this test expects: %v", levels)
	}
}

// sources are the files of folders, without tests.
func sources(t *testing.T, folders ...string) string {
	t.Helper()
	var all strings.Builder
	for _, folder := range folders {
		err := filepath.WalkDir(filepath.Join("..", folder), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			b, err := os.ReadFile(path)
			all.Write(b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}
