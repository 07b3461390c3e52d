package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// canaries are secrets that nobody may find again, by what they are.
var canaries = map[string]string{
	"webhook secret":                "canary-secret-2b7e",
	"webhook secret before":         "canary-previous-a1c4",
	"header of the file":            "canary-header-91fe",
	"query of the URL":              "canary-query-77d0",
	"path of a Slack URL":           "canary-path-5c1b",
	"password of the mail server":   "canary-smtp-3e58",
	"encryption key":                "canary-key-16byt",
	"secret of an API webhook":      "canary-api-secret-c2",
	"header of an API webhook":      "canary-api-header-d9",
	"query of an API webhook's URL": "canary-api-query-e4",
}

// leaks names the canaries in a text, as they are and inside of what base64 encodes.
func leaks(text []byte) (found []string) {
	for what, canary := range canaries {
		if bytes.Contains(text, []byte(canary)) || slices.ContainsFunc(inBase64(canary), func(s string) bool { return bytes.Contains(text, []byte(s)) }) {
			found = append(found, what)
		}
	}
	return found
}

// inBase64 returns how a text reads inside of a longer one in base64: it depends on how
// many bytes come before it. The characters that it shares with its neighbours are left
// out.
func inBase64(s string) (forms []string) {
	for before := range 3 {
		whole := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("x", before) + s))
		forms = append(forms, whole[(before*8+5)/6:(before+len(s))*8/6])
	}
	return forms
}

// storedLeaks names the canaries in the files of the store.
func (s *relayServer) storedLeaks() (found []string) {
	s.t.Helper()
	err := filepath.WalkDir(s.store(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		for _, what := range leaks(content) {
			found = append(found, what+" in "+d.Name())
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return found
}

// TestSecretsAreFoundNowhere: not in logs, API answers, exported configurations
// or mails, and, with an encryption key, in no file of the store. Without a key
// the store is only as private as its folder, which is the control.
func TestSecretsAreFoundNowhere(t *testing.T) {
	t.Parallel()
	for name, encrypted := range map[string]bool{"with a key": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := startMailServer(t, canaries["password of the mail server"])
			r := startReceiver(t, func(arrival) int { return http.StatusInternalServerError })
			o := relayOptions{
				global: "debug",
				env: []string{
					"SSL_CERT_FILE=" + m.roots,
					"WEBHOOK_SECRET=" + canaries["webhook secret"],
					"WEBHOOK_SECRET_BEFORE=" + canaries["webhook secret before"],
					"WEBHOOK_HEADER=" + canaries["header of the file"],
					"WEBHOOK_QUERY=" + canaries["query of the URL"],
					"SLACK_PATH=" + canaries["path of a Slack URL"],
					"SMTP_PASSWORD=" + canaries["password of the mail server"],
					"STORE_KEY=" + canaries["encryption key"],
				},
				app: fmt.Sprintf(`group_notices 100ms
					webhook file {
						url %[1]s/?token={env.WEBHOOK_QUERY}
						secret {env.WEBHOOK_SECRET} {env.WEBHOOK_SECRET_BEFORE}
						header Authorization "Bearer {env.WEBHOOK_HEADER}"
						retry none
					}
					webhook away {
						url http://127.0.0.1:1/?token={env.WEBHOOK_QUERY}
						secret {env.WEBHOOK_SECRET}
						retry none
					}
					webhook chat {
						url https://hooks.slack.com/services/T0/B0/{env.SLACK_PATH}
						disabled # nothing is sent there
					}
					notify smtp {
						host %[2]s
						from relay@example.com
						to ops@example.com
						username relay
						password {env.SMTP_PASSWORD}
					}`, r.url, m.address),
			}
			if encrypted {
				o.queue = "encryption_key {env.STORE_KEY}"
			}
			s := startRelay(t, o)
			s.ask("POST", "/webhooks", fmt.Sprintf(`{"name":"api","url":"%s/?token=%s","secret":%q,"headers":{"X-Token":%q},"retry":[]}`,
				r.url, canaries["query of an API webhook's URL"], canaries["secret of an API webhook"], canaries["header of an API webhook"]), 201)
			s.mustSubmit("one")
			for _, name := range []string{"file", "away", "api"} {
				eventually(t, 20*time.Second, name+" fails", func() bool { return s.webhook(name).State == "failing" })
				s.ask("POST", "/webhooks/"+name+"/test", "", 200)
			}
			eventually(t, 20*time.Second, "mails about all three", func() bool {
				all := strings.Join(m.received(), "")
				return strings.Contains(all, "file") && strings.Contains(all, "away") && strings.Contains(all, "api")
			})
			logged := s.process.Log()
			s.killAndRestart() // what it does at its start is looked at as well

			var page struct{ Items []struct{ ID string } }
			s.get("/events", &page)
			paths := []string{"/config/", "/userhero/events/" + page.Items[0].ID, "/metrics"}
			for _, p := range []string{"status", "webhooks", "webhooks/file", "webhooks/api", "webhooks/chat", "deliveries", "events", "activity"} {
				paths = append(paths, "/userhero/"+p)
			}
			for _, path := range paths {
				response, err := s.client.Get("http://" + s.admin + path)
				if err != nil {
					t.Fatal(err)
				}
				text, err := io.ReadAll(response.Body)
				_ = response.Body.Close()
				if err != nil || response.StatusCode != http.StatusOK {
					t.Errorf("%s: %s %v: %.3000s", path, response.Status, err, text)
				}
				for _, what := range leaks(text) {
					t.Errorf("%s shows the %s: %s", path, what, text)
				}
			}
			for _, text := range m.received() {
				text = strings.ReplaceAll(text, "=\r\n", "") // the line breaks of quoted-printable
				for _, what := range leaks([]byte(text)) {
					t.Errorf("a mail shows the %s: %s", what, text)
				}
			}
			for _, command := range []string{"webhooks", "deliveries", "events", "status"} {
				out, errs, err := caddyCommand(t.Context(), s, "", command, "--json")
				if found := leaks([]byte(out + errs)); err != nil || len(found) > 0 {
					t.Errorf("%s: %v, shows %q", command, err, found)
				}
			}
			stored := s.storedLeaks()
			if encrypted && len(stored) > 0 {
				t.Errorf("the encrypted store has %q", stored)
			}
			if !encrypted && len(stored) == 0 {
				t.Error("the control: a store without a key has no secret of the API webhook")
			}
			for _, what := range leaks([]byte(logged + s.process.Log())) {
				t.Errorf("the log shows the %s", what)
			}
		})
	}
}
