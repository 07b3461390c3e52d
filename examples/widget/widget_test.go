// Package widget_test brings the widget's own tests, which run in node, in Chromium and
// in Firefox, into `go test`.
package widget_test

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestWidgetInBrowser needs node, Chromium and Firefox (the Debian packages chromium and
// firefox-esr, or the paths in CHROMIUM and FIREFOX) and what `npm ci` installs here. The
// intake is a stand-in, which can also be overloaded. RELAY_CADDY names a built Caddy, from
// this folder, to test against as well.
func TestWidgetInBrowser(t *testing.T) {
	t.Parallel()
	browsers := map[string]string{
		"chromium": cmp.Or(os.Getenv("CHROMIUM"), "/usr/bin/chromium"),
		"firefox":  cmp.Or(os.Getenv("FIREFOX"), "/usr/bin/firefox-esr"),
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
	for name, path := range browsers {
		if _, err := os.Stat(path); err != nil {
			missing(path + " is missing; install the Debian packages chromium and firefox-esr, or set " + strings.ToUpper(name))
		}
	}
	for _, module := range []string{"node_modules/playwright-core", "node_modules/terser", "node_modules/axe-core", "../../e2e/console/node_modules/playwright-core"} {
		if _, err := os.Stat(filepath.FromSlash(module)); err != nil {
			missing("run npm ci in examples/widget and in e2e/console, or make node")
		}
	}
	tests, err := filepath.Glob("test/*.test.js")
	if err != nil || len(tests) == 0 {
		t.Fatalf("no tests: %v", err)
	}
	// go test repeats a result from its cache unless it sees what it depends on.
	inputs := append([]string{"userhero-widget.js", "userhero-words.js", "index.html", "terser.json", "test/intake.js", "test/minified.js", "../../e2e/console/firefox.js"}, tests...)
	if relay := os.Getenv("RELAY_CADDY"); relay != "" {
		inputs = append(inputs, relay)
	}
	for _, input := range inputs {
		if _, err := os.Stat(input); err != nil {
			t.Fatal(err)
		}
	}
	args := append([]string{"--test", "--test-concurrency=1"}, tests...)
	for browser := range browsers {
		for intake, relay := range map[string]string{"stand-in": "", "relay": os.Getenv("RELAY_CADDY")} {
			if intake == "relay" && relay == "" {
				continue
			}
			t.Run(browser+", "+intake, func(t *testing.T) {
				t.Parallel()
				cmd := exec.CommandContext(t.Context(), node, args...)
				cmd.Env = append(os.Environ(), "BROWSER="+browser, "RELAY_CADDY="+relay)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			})
		}
	}
}
