package relay

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/userhero/relay/queue/memqueue"
	"github.com/userhero/relay/relay/notify"
)

// TestWarningComesBeforeTheLadderRunsOut: a warning comes once. The notices that
// follow, failing or recovered, belong to its thread.
func TestWarningComesBeforeTheLadderRunsOut(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		recoversAfter time.Duration // 0 means never
		warnAfter     time.Duration
		want          string
	}{
		"answers again":           {2 * time.Hour, time.Hour, "warning@1h0m0s recovered@3h0m0s"},
		"answers before it":       {30 * time.Minute, 2 * time.Hour, ""},
		"answers after it failed": {20 * time.Hour, time.Hour, "warning@1h0m0s failing@12h0m0s recovered@20h0m0s"},
		"no warning is wanted":    {20 * time.Hour, 0, "failing@12h0m0s recovered@20h0m0s"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var healthy atomic.Bool
				rs := &receivers{answer: func(request) (int, http.Header) {
					if healthy.Load() {
						return http.StatusOK, nil
					}
					return http.StatusInternalServerError, nil
				}}
				l := &letters{}
				q := memqueue.New(memqueue.Options{})
				config := Config{
					Notifiers: []notify.Notifier{l}, GroupNotices: time.Second, WarnAfter: c.warnAfter,
					Webhooks: []WebhookConfig{{Name: "w", URL: "https://r.example/", Retry: []time.Duration{3 * time.Hour, 9 * time.Hour}}},
				}
				r, stop := startOn(t, q, rs, config)
				began := time.Now()
				accept(t, r, "fb_1")
				time.Sleep(90 * time.Minute)
				stop() // a restart does not repeat the notice
				r, stop = startOn(t, q, rs, config)
				defer stop()
				time.Sleep(time.Until(began.Add(c.recoversAfter)))
				healthy.Store(true)
				if c.recoversAfter > 12*time.Hour || c.recoversAfter < 90*time.Minute {
					accept(t, r, "fb_2")
				}
				time.Sleep(48 * time.Hour)
				var got []string
				threads := make(map[string]bool)
				for _, letter := range l.all() {
					for _, n := range letter {
						got = append(got, fmt.Sprintf("%s@%s", n.Kind, n.At.Sub(began).Round(time.Hour)))
						threads[n.Thread] = true
					}
				}
				if strings.Join(got, " ") != c.want || len(threads) > 1 {
					t.Errorf("letters %q in %d threads, want %s in one", got, len(threads), c.want)
				}
			})
		})
	}
}
