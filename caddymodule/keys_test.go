package caddymodule

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/userhero/relay/relay/signature"
)

// ed25519PEM is the first key of RFC 8032, §7.1, as openssl writes it.
const ed25519PEM = `-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g
-----END PRIVATE KEY-----
`

// TestReceiversReadPublicKeysWithoutLogin: the keys are at the console's address, whose
// pages are closed, also below a path that the site strips; a scoped console has only
// those of its webhooks. They verify what arrives, and no answer has the private key.
func TestReceiversReadPublicKeysWithoutLogin(t *testing.T) {
	s, hook := newSite(t), newHook(t)
	file := filepath.Join(t.TempDir(), "ed25519.pem")
	if err := os.WriteFile(file, []byte(ed25519PEM), 0o600); err != nil {
		t.Fatal(err)
	}
	s.load(`webhook keyed {
		url `+hook.URL+`
		signing_key {file.`+file+`}
		projects a
	}
	webhook other {
		url `+hook.URL+`/other
		signing_key `+signature.NewKey().String()+`
		projects b
	}
	webhook plain {
		url `+hook.URL+`/plain
	}`, `
	handle_path /stripped/* {
		userhero_console
	}
	handle_path /scoped/* {
		userhero_console {
			project a
		}
	}
	handle /kept/* {
		userhero_console
	}
	handle {
		userhero {
			project a
		}
	}`)
	var set struct{ Keys []signature.JWK }
	for path, n := range map[string]int{"/stripped/.well-known/webhook-keys.json": 2, "/kept/.well-known/webhook-keys.json": 2, "/scoped/.well-known/webhook-keys.json": 1} {
		a := s.do("GET", path, "")
		if a.Status != 200 || a.Header.Get("Content-Type") != "application/jwk-set+json" || strings.Contains(a.Body, `"d"`) {
			t.Fatalf("%s: %d %v %s", path, a.Status, a.Header, a.Body)
		}
		if err := json.Unmarshal([]byte(a.Body), &set); err != nil || len(set.Keys) != n {
			t.Errorf("%s has %d keys, want %d: %s", path, len(set.Keys), n, a.Body)
		}
	}
	if a := s.do("POST", "/kept/.well-known/webhook-keys.json", "{}"); a.Status == 200 {
		t.Errorf("it takes a POST: %d", a.Status)
	}
	a := s.do("GET", "/scoped/.well-known/webhook-keys.json", "")
	if err := json.Unmarshal([]byte(a.Body), &set); err != nil {
		t.Fatal(err)
	}
	s.post(`{"message":"hello"}`)
	verified := 0
	for _, arrived := range hook.await(t, 2) {
		if signature.VerifyPublic(set.Keys[0].X, arrived.Header, arrived.Body) == nil {
			verified++
		}
	}
	if verified != 1 {
		t.Errorf("%d of two deliveries are verified, want that of the webhook with the key", verified)
	}
	for _, secretPart := range []string{"nWGxne", "whsk_"} {
		if strings.Contains(s.api("/webhooks").Body, secretPart) {
			t.Errorf("an answer has %s", secretPart)
		}
	}
}
