package caddymodule

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"

	_ "github.com/caddyserver/caddy/v2/modules/standard" // Caddy's own directives
)

// TestCaddyfileAdapts adapts every testdata/*.caddyfiletest. Such a file has a
// Caddyfile, a line of dashes, and the expected JSON or error.
func TestCaddyfileAdapts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddyfiletest"), func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			source, want, ok := strings.Cut(string(data), "----------\n")
			if !ok {
				t.Fatal("the file has no line of dashes")
			}
			want = strings.TrimSpace(want)
			got, warnings, err := adapt(source)
			if !strings.HasPrefix(want, "{") {
				if err == nil {
					t.Fatalf("adapted to %s, want error: %s", got, want)
				}
				if !strings.Contains(err.Error(), want) {
					t.Fatalf("error: %v\nwant it to contain: %s", err, want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range warnings {
				t.Errorf("warning: %s", w)
			}
			var indented bytes.Buffer
			if err := json.Indent(&indented, got, "", "\t"); err != nil {
				t.Fatal(err)
			}
			if indented.String() != want {
				t.Errorf("got:\n%s\nwant:\n%s", indented.String(), want)
			}
		})
	}
}

// adapt turns a Caddyfile into JSON, as `caddy adapt` does.
func adapt(source string) ([]byte, []caddyconfig.Warning, error) {
	return caddyconfig.GetAdapter("caddyfile").Adapt([]byte(source), map[string]any{"filename": "Caddyfile"})
}
