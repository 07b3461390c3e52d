// Package widget_test brings the widget's own tests, which run in node and
// Chromium, into `go test`.
package widget_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestWidgetInBrowser needs node, Chromium (the Debian package, or the path in
// CHROMIUM) and what `npm ci` installs here. RELAY_CADDY names a built Caddy to test
// against, from this folder; without it the intake is a stand-in.
func TestWidgetInBrowser(t *testing.T) {
	t.Parallel()
	chromium := os.Getenv("CHROMIUM")
	if chromium == "" {
		chromium = "/usr/bin/chromium"
	}
	missing := func(what string) {
		t.Helper()
		if os.Getenv("CI") == "true" {
			t.Fatal(what)
		}
		t.Skip(what)
	}
	node, err := exec.LookPath("node")
	if err != nil {
		missing("node is missing; install the Debian package nodejs")
	}
	if _, err := os.Stat(chromium); err != nil {
		missing("Chromium is missing; install the Debian package chromium or set CHROMIUM")
	}
	for _, module := range []string{"playwright-core", "terser", "axe-core"} {
		if _, err := os.Stat(filepath.Join("node_modules", module)); err != nil {
			missing("run npm ci in examples/widget")
		}
	}
	tests, err := filepath.Glob("test/*.test.js")
	if err != nil || len(tests) == 0 {
		t.Fatalf("no tests: %v", err)
	}
	// go test repeats a result from its cache unless it sees what it depends on.
	inputs := append([]string{"userhero-widget.js", "userhero-words.js", "index.html", "terser.json", "test/intake.js", "test/minified.js"}, tests...)
	if relay := os.Getenv("RELAY_CADDY"); relay != "" {
		inputs = append(inputs, relay)
	}
	for _, input := range inputs {
		if _, err := os.Stat(input); err != nil {
			t.Fatal(err)
		}
	}
	args := append([]string{"--test", "--test-concurrency=1"}, tests...)
	if out, err := exec.CommandContext(t.Context(), node, args...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
