package relay

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
)

// refusing is a queue that refuses to park webhooks while it is set.
type refusing struct {
	queue.Queue
	refuses bool
}

var errRefused = errors.New("refused")

func (q *refusing) PutWebhook(ctx context.Context, w queue.Webhook) (queue.Webhook, error) {
	if q.refuses && w.Expires {
		return queue.Webhook{}, errRefused
	}
	return q.Queue.PutWebhook(ctx, w)
}

// TestSettingsThatCannotBeAppliedChangeNothing: if one webhook's settings fail, no
// webhook changes, neither before nor after it.
func TestSettingsThatCannotBeAppliedChangeNothing(t *testing.T) {
	t.Parallel()
	for name, attach := range map[string]func(r *Relay, q *refusing) error{
		"a name that was added through the API": func(r *Relay, _ *refusing) error {
			_, err := r.Attach(Config{Webhooks: []WebhookConfig{
				{Name: "a", URL: "https://other.example/"}, {Name: "added", URL: "https://added.example/"},
			}})
			return err
		},
		"a store that takes only half of it": func(r *Relay, q *refusing) error {
			q.refuses = true
			_, err := r.Attach(Config{Webhooks: []WebhookConfig{{Name: "a", URL: "https://other.example/"}, {Name: "c", URL: "https://c.example/"}}})
			q.refuses = false
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				rs := &receivers{answer: always(200)}
				q := &refusing{Queue: memqueue.New(memqueue.Options{})}
				r, stop := startOn(t, q, rs, Config{Webhooks: []WebhookConfig{
					{Name: "a", URL: "https://a.example/"}, {Name: "b", URL: "https://b.example/"},
				}})
				defer stop()
				if err := r.Add(t.Context(), WebhookConfig{Name: "added", URL: "https://added.example/"}, "test"); err != nil {
					t.Fatal(err)
				}
				if err := attach(r, q); err == nil {
					t.Fatal("settings that cannot be applied are attached")
				}
				accept(t, r, "fb_1")
				time.Sleep(time.Second)
				hosts := make(map[string]int)
				for _, s := range rs.all() {
					hosts[s.host]++
				}
				if len(hosts) != 3 || hosts["a.example"] != 1 || hosts["b.example"] != 1 || hosts["added.example"] != 1 {
					t.Errorf("after settings that were refused the event went to %v", hosts)
				}
			})
		})
	}
}
