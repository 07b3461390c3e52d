package caddymodule

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/relay/signature"
)

// ran is the result of a command.
type ran struct {
	out, err string
	failed   error
}

// prints runs `caddy userhero` on the site. The command must succeed and print want.
func (s *site) prints(want string, args ...string) {
	s.t.Helper()
	r := command(s.t.Context(), append([]string{"--address", s.admin}, args...)...)
	if got := r.out + fmt.Sprint(r.failed); !strings.Contains(got, want) || r.failed != nil {
		s.t.Errorf("%v says %q, want %q", args, got, want)
	}
}

// command runs `caddy userhero` in this process.
func command(ctx context.Context, args ...string) ran {
	userhero := &cobra.Command{Use: "userhero", SilenceUsage: true}
	caddycmd.Commands()["userhero"].CobraFunc(userhero)
	var out, errs bytes.Buffer
	userhero.SetOut(&out)
	userhero.SetErr(&errs)
	userhero.SetArgs(args)
	err := userhero.ExecuteContext(ctx)
	return ran{out.String(), errs.String(), err}
}

// TestBackupOfARunningRelayRestoresAndDelivers backs up a relay over the admin
// endpoint, restores into another folder, and reloads with that folder. The waiting
// delivery is made under its old id. Then it backs up the folder of the closed store,
// uses encryption keys, and salvages a damaged store.
func TestBackupOfARunningRelayRestoresAndDelivers(t *testing.T) {
	s, h := newSite(t), newHook(t)
	h.mu.Lock()
	h.status = http.StatusTeapot
	h.mu.Unlock()
	s.load(webhookTo(h)+"retry 1h\n", directive)
	s.post(`{"message":"hi"}`)
	h.await(t, 1)
	var delivery string
	eventually(t, func() bool {
		items := s.api("/deliveries?state=retrying").json(t)["items"].([]any)
		if len(items) == 1 {
			delivery = items[0].(map[string]any)["id"].(string)
		}
		return delivery != ""
	})
	file := func(name string) string { return filepath.Join(s.dir, name) }
	refused := func(want string, args ...string) {
		t.Helper()
		r := command(t.Context(), append([]string{"--address", s.admin}, args...)...)
		if r.failed == nil || !strings.Contains(r.failed.Error(), want) {
			t.Errorf("%v ends with %v, want %q", args, r.failed, want)
		}
	}
	s.prints("nothing is wrong", "check")
	s.prints(`"found":0`, "check", "--json")
	s.prints("It is NOT encrypted", "backup", file("backup"))
	if info, err := os.Stat(file("backup")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the backup: %v, %v", info, err)
	}
	refused("exists already", "backup", file("backup"))
	refused("another process has it open", "check", s.store())
	refused("another process has it open", "backup", file("second"), s.store())
	refused("is not empty", "restore", file("backup"), s.store())
	refused("another process has it open", "restore", file("backup"), s.store(), "--replace")
	s.prints("is restored", "restore", file("backup"), file("restored"))

	h.mu.Lock()
	h.status = http.StatusNoContent
	h.mu.Unlock()
	s.load(webhookTo(h)+"retry 1h\nqueue badger {\npath "+file("restored")+"\n}\n", directive)
	if a, err := request(http.MethodPost, "http://"+s.admin+"/userhero/deliveries/"+delivery+"/redeliver", ""); err != nil || a.Status/100 != 2 {
		t.Fatalf("redelivering: %+v, %v", a, err)
	}
	arrived := h.await(t, 2)
	if string(arrived[0].Body) != string(arrived[1].Body) || arrived[1].Header.Get("X-UserHero-Delivery") != delivery {
		t.Errorf("delivered %v, want what was waiting in the backup", arrived[1])
	}

	// The first store is closed now. Back up its folder.
	s.prints("nothing is wrong", "check", s.store())
	s.prints("is complete", "backup", file("third"), s.store())
	const key, other = "0123456789abcdef", "fedcba9876543210"
	s.prints("is restored", "restore", file("third"), file("secret"), "--encryption-key", key)
	s.prints("encrypted with the store's key", "backup", file("fourth"), file("secret"), "--encryption-key", key)
	refused("the backup is encrypted", "restore", file("fourth"), file("fifth"))
	s.prints("has the new key", "rotate-key", file("secret"), "--old", key, "--new", other)
	refused("the old key is not that", "rotate-key", file("secret"), "--old", key, "--new", other)
	refused("encryption key is not the one", "check", file("secret"), "--encryption-key", key)
	s.prints("nothing is wrong", "check", file("secret"), "--encryption-key", other)
	tables, err := filepath.Glob(filepath.Join(s.store(), "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatal(tables, err)
	}
	if err := os.Truncate(tables[0], 100); err != nil {
		t.Fatal(err)
	}
	refused("wrong with the store", "check", s.store())
	s.prints("Saved to", "check", "--salvage", file("saved"), s.store())
	s.prints("nothing is wrong", "check", file("saved"))
}

// TestBackupsOfATimer: a backup that a timer makes is read back, the relay shows its age,
// also after a restart, and the oldest backups are removed. A backup that cannot
// be read back removes none.
func TestBackupsOfATimer(t *testing.T) {
	s := newSite(t)
	const key = "0123456789abcdef"
	config := "queue badger {\npath " + s.store() + "\nencryption_key " + key + "\n}\n"
	s.load(config, directive)
	s.post(`{"message":"hi"}`)
	dir := filepath.Join(s.dir, "backups")
	backups := func() (names []string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	old, abandoned := time.Now().Add(-48*time.Hour), filepath.Join(dir, "relay-20260101T000003Z.backup.1.part")
	for _, name := range []string{"relay-20260101T000000Z.backup", "relay-20260101T000001Z.backup", "relay-20260101T000002Z.backup", "notes", filepath.Base(abandoned)} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(abandoned, old, old); err != nil {
		t.Fatal(err)
	}
	if metrics := s.metrics(); strings.Contains(metrics, "userhero_backup_age_seconds") {
		t.Error("there is an age before there is a backup")
	}
	if r := command(t.Context(), "--address", s.admin, "backup", "--dir", dir, "--keep", "1"); r.failed == nil || !strings.Contains(r.failed.Error(), "no older backup was removed") {
		t.Errorf("without the key: %+v", r)
	}
	if got := backups(); len(got) != 6 {
		t.Errorf("a backup that was not read back removed others: %v", got)
	}
	first := backups()[5]
	r := command(t.Context(), "--address", s.admin, "backup", "--dir", dir, "--keep", "2", "--encryption-key", key)
	if r.failed != nil || !strings.Contains(r.out, "is complete") {
		t.Fatalf("%+v", r)
	}
	got := backups()
	// The second backup began in the same second as the first.
	if len(got) != 3 || got[0] != "notes" || got[1] != first || got[2] <= first {
		t.Errorf("the folder holds %v", got)
	}
	if status := command(t.Context(), "--address", s.admin, "status"); !strings.Contains(status.out, "Last backup") {
		t.Errorf("the status is\n%s", status.out)
	}
	s.load("queue badger {\npath "+filepath.Join(s.dir, "other")+"\n}\n", directive) // closes the store
	s.load(config, directive)
	if !regexp.MustCompile(`(?m)^userhero_backup_age_seconds [0-9.e-]+$`).MatchString(s.metrics()) {
		t.Error("after a restart nobody knows of the backup")
	}
	for body, want := range map[string]int{
		`{}`: http.StatusBadRequest, `{"made":"2999-01-01T00:00:00Z"}`: http.StatusBadRequest, `{"made":"2026-01-01T00:00:00Z"}`: http.StatusNoContent,
	} {
		if a, err := request(http.MethodPost, "http://"+s.admin+"/userhero/backup", body); err != nil || a.Status != want {
			t.Errorf("%s: %+v, %v", body, a, err)
		}
	}
}

// TestBackupIsOnNoConsole: a user who may see deliveries must not get the secrets.
func TestBackupIsOnNoConsole(t *testing.T) {
	s := newSite(t)
	s.load("", "handle_path /relay/* {\nuserhero_console {\nno_auth\n}\n}")
	for _, path := range []string{"/relay/backup", "/relay/api/backup", "/relay/api/check"} {
		if a, err := request(http.MethodGet, "http://"+s.address+path, ""); err != nil || a.Status != http.StatusNotFound {
			t.Errorf("%s: %+v, %v", path, a, err)
		}
	}
}

func TestListenForwardsRealSignatures(t *testing.T) {
	s, h, local := newSite(t), newHook(t), newHook(t)
	s.load(webhookTo(h), directive)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	ended := make(chan ran, 1)
	go func() {
		ended <- command(ctx, "listen", "--address", s.admin, "--to", local.URL, "--state", filepath.Join(s.dir, "state"), "--interval", "10ms", "--since", "1m")
	}()
	s.post(`{"message":"<b>größer</b> & \u2028"}`)
	sent, forwarded := h.await(t, 1)[0], local.await(t, 1)[0]
	interrupt()
	if r := <-ended; r.failed != nil {
		t.Error(errors.Join(r.failed, errors.New(r.err)))
	}
	if !bytes.Equal(sent.Body, forwarded.Body) {
		t.Errorf("sent %s\nforwarded %s", sent.Body, forwarded.Body)
	}
	for _, name := range []string{"X-UserHero-Signature", "webhook-signature"} {
		v := signature.Explain(signature.Request{
			Secret: "s3cret", Signature: forwarded.Header.Get(name), ID: forwarded.Header.Get("webhook-id"),
			Timestamp: forwarded.Header.Get("webhook-timestamp"), Body: forwarded.Body,
		}, event.Canonical)
		if !v.Valid {
			t.Errorf("%s: %v", name, v.Reasons)
		}
	}
}
