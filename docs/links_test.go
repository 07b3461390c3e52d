package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	fences    = regexp.MustCompile("(?ms)^```.*?^```$")
	codeSpans = regexp.MustCompile("`[^`\n]*`")
	links     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	headings  = regexp.MustCompile(`(?m)^#{1,6} (.+)$`)
	notInIDs  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// TestLinksLeadSomewhere: each relative link of a Markdown file leads to a file, and its
// fragment to a heading.
func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	found := 0
	err := filepath.WalkDir("..", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && (e.Name() == "node_modules" || e.Name() == "dist" || strings.HasPrefix(e.Name(), ".") && path != "..") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		for _, link := range links.FindAllStringSubmatch(prose(t, path), -1) {
			target, fragment, _ := strings.Cut(link[1], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			found++
			to := path
			if target != "" {
				to = filepath.Join(filepath.Dir(path), target)
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s links to %s: %v", path, link[1], err)
			} else if fragment != "" && !ids(t, to)[fragment] {
				t.Errorf("%s links to %s, which has no heading with that id", path, link[1])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if found < 50 {
		t.Errorf("only %d links found; are they written otherwise than this test expects?", found)
	}
}

// prose is a Markdown file without its code.
func prose(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return codeSpans.ReplaceAllString(fences.ReplaceAllString(string(text), ""), "")
}

// ids are those of a file's headings, as GitHub and Hugo make them.
func ids(t *testing.T, path string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	made := make(map[string]bool)
	for _, heading := range headings.FindAllStringSubmatch(fences.ReplaceAllString(string(text), ""), -1) {
		id := notInIDs.ReplaceAllString(strings.ToLower(strings.TrimSpace(heading[1])), "")
		made[strings.ReplaceAll(id, " ", "-")] = true
	}
	return made
}
