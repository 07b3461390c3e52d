// Package console_test brings the console's tests, which run in node and
// Chromium and Firefox against the built Caddy, into `go test`.
package console_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestConsoleInBrowser needs node, Chromium and Firefox (the Debian packages chromium and
// firefox-esr, or the paths in CHROMIUM and FIREFOX), what `npm ci` installs here, and a built Caddy: ../../caddy, or
// what RELAY_CADDY names. Two files of tests run at a time, each with its own browser.
func TestConsoleInBrowser(t *testing.T) {
	t.Parallel()
	binary := os.Getenv("RELAY_CADDY")
	if binary == "" {
		binary = "../../caddy"
	}
	binary, err := filepath.Abs(binary)
	if err != nil {
		t.Fatal(err)
	}
	tests, err := filepath.Glob("*.test.js")
	if err != nil || len(tests) == 0 {
		t.Fatalf("no tests: %v", err)
	}
	// go test repeats a result from its cache unless it sees what it depends on.
	for _, input := range append([]string{binary, "hooks.js", "relay.js", "tasks.js", "node_modules/playwright-core", "node_modules/axe-core", "node_modules/puppeteer-core"}, tests...) {
		if _, err := os.Stat(input); err != nil {
			t.Fatalf("%v; `make build node` makes it", err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "node", append([]string{"--test", "--test-concurrency=2"}, tests...)...)
	cmd.Env = append(os.Environ(), "RELAY_CADDY="+binary)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
