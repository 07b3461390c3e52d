package caddymodule

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// FuzzCaddyfile: adapting any text in the blocks of userhero gives JSON or an error.
// Provisioning that JSON succeeds or gives an error. Neither panics, writes a file or
// sends anything.
func FuzzCaddyfile(f *testing.F) {
	files, err := filepath.Glob("testdata/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		f.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		source, _, _ := strings.Cut(string(data), "----------\n")
		f.Add(source)
	}
	for _, block := range []string{
		"webhook \"\" {\n url http://a\n}", "webhook a {\n url http://a\n rate 9223372036854775807/1ns\n}", "webhook a {\n url http://a\n retry 106751d\n}",
		"webhook a {\n url {env.NOWHERE}\n}", "webhook a {\n url http://a\n filter `data.x.matches('(((((((((')`\n}", "max_disk 16EiB", "retention -1s", "timeout 1ns",
		"egress {\n allow ::ffff:1.2.3.4/128 [::1]\n}", "notify smtp {\n host :\n}", "queue badger {\n encryption_key x\n}", "queue jetstream {\n servers ://\n nkey /nowhere\n}", "webhook a {\n url http://a\n tls_ca /nowhere\n}", "{\n}\n}",
	} {
		f.Add("{\n\tuserhero {\n" + block + "\n\t}\n}\n")
	}
	folder := f.TempDir()
	f.Fuzz(func(t *testing.T, source string) {
		if strings.Contains(source, "import") || strings.Contains(source, "{file") {
			return // these are Caddy's features, and they read files
		}
		adapted, _, err := adapt(source)
		if err != nil {
			return
		}
		var config struct {
			Apps struct {
				UserHero json.RawMessage `json:"userhero"`
			} `json:"apps"`
		}
		if err := json.Unmarshal(adapted, &config); err != nil {
			t.Fatalf("adapted to what is no JSON: %v", err)
		}
		if config.Apps.UserHero == nil {
			return
		}
		app := new(App)
		if err := caddy.StrictUnmarshalJSON(config.Apps.UserHero, app); err != nil {
			t.Fatalf("the JSON of the Caddyfile is not the app's: %v", err)
		}
		// Each input has a store of its own. Otherwise all would share the settings
		// of the first one.
		var engine map[string]any
		if app.QueueRaw != nil && json.Unmarshal(app.QueueRaw, &engine) == nil && engine["engine"] == "badger" {
			engine["path"] = filepath.Join(folder, "store")
			if app.QueueRaw, err = json.Marshal(engine); err != nil {
				t.Fatal(err)
			}
		} else if app.QueueRaw == nil {
			if app.QueueRaw, err = json.Marshal(map[string]string{"engine": "badger", "path": filepath.Join(folder, "store")}); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := caddyContext(t)
		defer cancel()
		if err := app.Provision(ctx); err == nil {
			_ = app.Validate() // an error is allowed, a panic is not
		}
		if err := app.Cleanup(); err != nil {
			t.Errorf("cleaning up: %v", err)
		}
		if entries, err := os.ReadDir(folder); err != nil || len(entries) != 0 {
			t.Errorf("provisioning left files: %v, %v", entries, err)
		}
	})
}
