package relay

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/userhero/relay/queue/memqueue"
)

func TestChangesOfTheConfigurationAreActivities(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rs := &receivers{answer: always(http.StatusOK)}
		a := WebhookConfig{Name: "a", URL: "https://a.example/", Secret: "canary-1"}
		b := WebhookConfig{Name: "b", URL: "https://b.example/"}
		r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, Config{Webhooks: []WebhookConfig{a, b}})
		defer stop()
		reload := func(c ...WebhookConfig) {
			t.Helper()
			time.Sleep(time.Second)
			if _, err := r.Attach(Config{Webhooks: c}); err != nil {
				t.Fatal(err)
			}
		}
		reload(a, b) // unchanged settings add no entry
		reload(a)
		a.Secret, a.Header, a.Retry = "canary-2", http.Header{"X-A": {"canary-3"}}, []time.Duration{time.Minute}
		reload(a, b)

		page, err := r.Activities(t.Context(), 100, "")
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for _, l := range page.Items {
			lines = append(lines, strings.Join([]string{l.Who, l.Webhook, l.What, l.Detail}, " | "))
		}
		slices.Sort(lines)
		want := []string{
			"caddyfile | a | webhook added | a.example",
			"caddyfile | a | webhook changed | secret, header, retry",
			"caddyfile | b | webhook added | b.example",
			"caddyfile | b | webhook parked | it has left the configuration; what waits for it is held",
			"caddyfile | b | webhook returned | what waited for it goes out",
		}
		if !slices.Equal(lines, want) {
			t.Errorf("the activity log has\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
		}
	})
}
