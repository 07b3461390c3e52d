// Package console_test brings the console's tests, which run in node against the
// built Caddy, in Chromium and in Firefox, into `go test`.
package console_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestConsoleInBrowser needs node, Chromium and Firefox (the Debian packages chromium and
// firefox-esr, or the paths in CHROMIUM and FIREFOX), what `npm ci` installs here, and a built Caddy: ../../caddy, or
// what RELAY_CADDY names. Both browsers run the same files, at the same time. Chromium
// has more tests, so it runs two files at a time.
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
	for _, input := range append([]string{binary, "firefox.js", "hooks.js", "relay.js", "tasks.js", "node_modules/playwright-core", "node_modules/axe-core"}, tests...) {
		if _, err := os.Stat(input); err != nil {
			t.Fatalf("%v; `make build node` makes it", err)
		}
	}
	for browser, atATime := range map[string]string{"chromium": "2", "firefox": "1"} {
		t.Run(browser, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), "node", append([]string{"--test", "--test-concurrency=" + atATime}, tests...)...)
			cmd.Env = append(os.Environ(), "RELAY_CADDY="+binary, "BROWSER="+browser)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		})
	}
}
