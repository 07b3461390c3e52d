package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestReloadsUnderLoad: twenty reloads lose nothing, repeat nothing, and answer
// nothing but 202. Caddy closes its connections when it reloads, some just as a
// request is on its way; the clients repeat those.
func TestReloadsUnderLoad(t *testing.T) {
	r := startReceiver(t, nil)
	webhook := fmt.Sprintf("webhook app {\n url %s\n secret %s\n concurrency %%d\n}", r.url, secret)
	s := startRelay(t, relayOptions{app: fmt.Sprintf(webhook, 8)})

	l := newLoad(t)
	l.start(s, 8, true)
	for n := range 20 {
		before := l.acknowledgements()
		eventually(t, 30*time.Second, "20 more acknowledged events", func() bool { return l.acknowledgements() >= before+20 })
		s.options.app = fmt.Sprintf(webhook, 4+n)
		if err := s.reload(s.caddyfile(s.options)); err != nil {
			t.Fatal(err)
		}
	}
	l.end()
	if l.broken > 0 {
		t.Errorf("%d submissions got no answer, however often they were repeated", l.broken)
	}
	t.Logf("%d acknowledged, %d sent again", l.acknowledgements(), l.repeated)
	for _, refused := range l.refused {
		t.Errorf("a submission was refused: %s", refused)
	}

	var arrived map[string]int
	r.await(t, 60*time.Second, "every acknowledged event has arrived", func(all []arrival) bool {
		if len(all) < l.acknowledgements() {
			return false
		}
		arrived = feedbackIDs(t, all)
		return l.missing(arrived) == 0
	})
	eventually(t, 10*time.Second, "nothing waits", func() bool {
		c := s.webhook("app").Counts
		return c.Pending == 0 && c.Retrying == 0
	})
	all := r.arrivals()
	for id, n := range feedbackIDs(t, all) {
		if n != 1 {
			t.Errorf("%s arrived %d times", id, n)
		}
	}
	submissions := map[string]int{}
	for _, a := range all {
		submissions[documentOf(t, a).Data.Message]++
	}
	for message, n := range submissions {
		if n != 1 {
			t.Errorf("%q made %d events", message, n)
		}
	}
}

// TestValidateBesideARunningServer: no lock is taken and no folder is made.
func TestValidateBesideARunningServer(t *testing.T) {
	t.Parallel()
	r := startReceiver(t, func(arrival) int { return http.StatusOK })
	s := startRelay(t, relayOptions{app: fmt.Sprintf("webhook app {\n url %s\n secret %s\n}", r.url, secret)})

	if out, err := s.process.Run(t.Context(), "validate", "--config", "Caddyfile"); err != nil {
		t.Errorf("validate beside the running server: %v\n%s", err, out)
	}

	elsewhere := *s
	elsewhere.dir = filepath.Join(s.dir, "elsewhere")
	other := filepath.Join(s.dir, "Other")
	if err := os.WriteFile(other, []byte(elsewhere.caddyfile(s.options)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := s.process.Run(t.Context(), "validate", "--config", other, "--adapter", "caddyfile"); err != nil {
		t.Errorf("validate: %v\n%s", err, out)
	}
	if _, err := os.Stat(elsewhere.dir); !os.IsNotExist(err) {
		t.Errorf("validate made %s (%v)", elsewhere.dir, err)
	}
	s.mustSubmit("still here")
	r.await(t, 10*time.Second, "the running server still delivers", func(all []arrival) bool { return len(all) == 1 })
}
