package e2e

import (
	"fmt"
	"net/http"
	"net/mail"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestOneMailPerChangeOfStateAcrossRestarts: a ladder that runs out sends one
// mail, and the first success after it another, whatever is killed in between.
func TestOneMailPerChangeOfStateAcrossRestarts(t *testing.T) {
	t.Parallel()
	m := startMailServer(t, "mail-password")
	var healthy atomic.Bool
	r := startReceiver(t, func(arrival) int {
		if healthy.Load() {
			return http.StatusOK
		}
		return http.StatusInternalServerError
	})
	s := startRelay(t, relayOptions{
		env: []string{"SSL_CERT_FILE=" + m.roots},
		app: fmt.Sprintf(`group_notices 2s
			webhook app {
				url %s
				retry 200ms
			}
			%s`, r.url, m.notifier()),
	})
	arrived := func(n int, subject string) *mail.Message {
		t.Helper()
		eventually(t, 30*time.Second+takeover, fmt.Sprintf("%d mails", n), func() bool { return len(m.received()) >= n })
		// A kill between the mail and its settlement would send it again, with the
		// same Message-ID; the activity log has its line after both.
		eventually(t, 30*time.Second+takeover, "the activity log says so", func() bool {
			var log struct{ Items []struct{ What string } }
			s.get("/activity?limit=1000", &log)
			sent := 0
			for _, l := range log.Items {
				if l.What == "notice sent" {
					sent++
				}
			}
			return sent == n
		})
		all := m.received()
		message, err := mail.ReadMessage(strings.NewReader(all[len(all)-1]))
		if err != nil || len(all) != n || !strings.Contains(message.Header.Get("Subject"), subject) {
			t.Fatalf("%d mails, want %d; %v, want one about %q; the last:\n%s", len(all), n, err, subject, all[len(all)-1])
		}
		return message
	}
	for i := range 3 { // three ladders run out: one change of state
		s.mustSubmit(fmt.Sprintf("refused %d", i))
	}
	eventually(t, 30*time.Second, "the webhook fails", func() bool { return s.webhook("app").State == "failing" })
	s.killAndRestart() // between the change of state and the mail
	failing := arrived(1, "fail")
	s.killAndRestart()
	if w := s.webhook("app"); w.State != "failing" {
		t.Errorf("after a kill the webhook is %s", w.State)
	}
	healthy.Store(true)
	s.mustSubmit("accepted")
	eventually(t, 60*time.Second, "the webhook recovers", func() bool { return s.webhook("app").State == "active" })
	s.killAndRestart()
	recovered := arrived(2, "works again")
	if parent := failing.Header.Get("Message-Id"); parent == "" || recovered.Header.Get("In-Reply-To") != parent {
		t.Errorf("the second mail is no answer to the first: %v, %v", recovered.Header, failing.Header)
	}
	s.mustSubmit("accepted as well")
	s.killAndRestart()
	time.Sleep(4 * time.Second) // twice as long as mails wait for each other
	arrived(2, "works again")
}
