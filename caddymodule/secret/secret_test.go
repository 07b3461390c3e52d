package secret

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// TestSecretFilesThatGiveNoSecret: the error names the file and what is wrong with it.
func TestSecretFilesThatGiveNoSecret(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, content := range map[string]string{"whole": "s3cret\r\n", "empty": "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	resolve := func(name string) (string, error) {
		return Resolve(caddy.NewReplacer(), "{file."+filepath.Join(dir, name)+"}")
	}
	if got, err := resolve("whole"); err != nil || got != "s3cret" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := resolve("missing"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "missing") {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := resolve("empty"); err == nil || !strings.Contains(err.Error(), "empty is empty") {
		t.Errorf("an empty file: %v", err)
	}
	if _, err := resolve("."); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a folder: %v", err)
	}
}
