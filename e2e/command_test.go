package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// caddyCommand runs `caddy userhero` against a relay's admin endpoint.
func caddyCommand(ctx context.Context, s *relayServer, stdin string, args ...string) (stdout, stderr string, err error) {
	args = append([]string{"userhero", "--address", s.admin}, args...)
	cmd := exec.CommandContext(ctx, binary(s.t), args...)
	cmd.Env = append(os.Environ(), "HOME="+s.dir)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// TestCommandsRepairAWebhook: it is paused, misses an event, is tested, enabled,
// and gets what it missed, from the command line alone.
func TestCommandsRepairAWebhook(t *testing.T) {
	t.Parallel()
	r := startReceiver(t, nil)
	s := startRelay(t, relayOptions{app: fmt.Sprintf("webhook app {\n url %s\n secret %s\n}", r.url, secret)})
	run := func(want string, args ...string) string {
		t.Helper()
		out, errs, err := caddyCommand(t.Context(), s, "", args...)
		if err != nil || !strings.Contains(out, want) {
			t.Fatalf("%v: %v\n%s%s\nwant %q", args, err, out, errs, want)
		}
		return out
	}
	run("1 active", "status")
	run("app is paused", "disable", "app")
	missed := s.mustSubmit("missed")
	run("No deliveries.", "deliveries")
	run("X-UserHero-Test:", "test", "app")
	run("app is active", "enable", "app")
	run("1 delivery would be queued again.", "redeliver", "--webhook", "app", "--state", "missed", "--since", "1h", "--dry-run")
	run("1 delivery is queued again.", "redeliver", "--webhook", "app", "--state", "missed", "--since", "1h")
	arrived := r.await(t, 20*time.Second, "the test and what was missed have arrived", func(all []arrival) bool { return len(all) >= 2 })
	if got := documentOf(t, arrived[1]).Data.ID; got != missed {
		t.Errorf("%s arrived, want %s", got, missed)
	}

	// What arrived verifies, and what a careless receiver makes of it is explained.
	body, signed := arrived[1].body, signature([]byte(arrived[1].body))
	if out, errs, err := caddyCommand(t.Context(), s, body, "verify", "--secret", secret, "--signature", signed); err != nil {
		t.Errorf("verify: %v %s%s", err, out, errs)
	}
	if _, errs, err := caddyCommand(t.Context(), s, body+"\n", "verify", "--secret", secret, "--signature", signed); err == nil || !strings.Contains(errs, "newline") {
		t.Errorf("verify with a newline: %v %s", err, errs)
	}

	var page struct{ Items []struct{ ID string } }
	if err := json.Unmarshal([]byte(run("", "deliveries", "--json")), &page); err != nil || len(page.Items) != 1 {
		t.Fatalf("deliveries: %v %v", err, page)
	}
	run("is queued again", "redeliver", page.Items[0].ID)
	r.await(t, 20*time.Second, "it has arrived again", func(all []arrival) bool { return len(all) == 3 })
	if _, errs, err := caddyCommand(t.Context(), s, "", "enable", "none"); err == nil || !strings.Contains(errs, "none") {
		t.Errorf("enabling what does not exist: %v %s", err, errs)
	}
}

// TestListenGoesOnAfterAnInterrupt: a process is interrupted by a signal, and
// the next forwards what came in between, once, with signatures that verify.
func TestListenGoesOnAfterAnInterrupt(t *testing.T) {
	t.Parallel()
	hidden, local := startReceiver(t, nil), startReceiver(t, nil)
	s := startRelay(t, relayOptions{app: fmt.Sprintf("webhook app {\n url %s\n secret %s\n}", hidden.url, secret)})
	state := filepath.Join(t.TempDir(), "state")
	submitted := 0
	for round := range 2 {
		ctx, interrupt := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		s.mustSubmit(fmt.Sprintf("before round %d", round))
		submitted++
		go func() {
			args := []string{"listen", "--to", local.url, "--webhook", "app", "--state", state, "--interval", "20ms"}
			if round == 0 {
				args = append(args, "--since", "1m")
			}
			_, errs, err := caddyCommand(ctx, s, "", args...)
			if err != nil && ctx.Err() == nil {
				err = fmt.Errorf("%w: %s", err, errs)
			}
			ended <- err
		}()
		s.mustSubmit(fmt.Sprintf("in round %d", round))
		submitted++
		local.await(t, 20*time.Second, "what was submitted has been forwarded", func(all []arrival) bool { return len(all) >= submitted })
		interrupt()
		if err := <-ended; err != nil && !strings.Contains(err.Error(), context.Canceled.Error()) {
			t.Errorf("round %d: %v", round, err)
		}
	}
	all := local.arrivals()
	for id, n := range feedbackIDs(t, all) {
		if n != 1 {
			t.Errorf("%s was forwarded %d times", id, n)
		}
	}
	if len(all) != submitted {
		t.Errorf("%d forwarded of %d", len(all), submitted)
	}
	for _, a := range all {
		if !a.signed {
			t.Errorf("the signature of %s is wrong", a.delivery)
		}
	}
}
