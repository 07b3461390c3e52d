package jetstreamqueue_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/userhero/relay/e2e/natsproc"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/jetstreamqueue"
)

// TestTooFewRightsAreSaid opens a queue in accounts that grant less than it needs. The
// error says what to grant, and soon.
func TestTooFewRightsAreSaid(t *testing.T) {
	t.Parallel()
	user := func(name, jetstream, permissions string) string {
		return fmt.Sprintf("%[1]s { %[2]s\nusers: [ { user: %[1]s, password: pw, permissions: { %[3]s } } ] }\n", name, jetstream, permissions)
	}
	const all, js = `publish: ">", subscribe: ">"`, "jetstream: enabled"
	accounts := user("enough", js, `publish: [ "userhero.>", "$JS.API.>" ], subscribe: [ "userhero.>", "_INBOX.>" ]`) +
		user("without", "", all) +
		user("streams", "jetstream: { max_streams: 3 }", all) +
		user("consumers", "jetstream: { max_consumers: 1 }", all) +
		user("bytes", "jetstream: { max_file: 1MB, max_bytes_required: true }", all) +
		user("api", js, `publish: "userhero.>", subscribe: ">"`) +
		user("publishing", js, `publish: "$JS.API.>", subscribe: ">"`) +
		user("inbox", js, `publish: ">", subscribe: "userhero.>"`) +
		user("peers", js, `publish: ">", subscribe: "_INBOX.>"`) +
		user("full", "jetstream: { max_file: 40KB }", all)
	if _, err := natsproc.Binary(); err != nil {
		t.Skip(err)
	}
	s, err := natsproc.Start(t.Context(), natsproc.Options{
		Dir: t.TempDir(), NoSync: true, Extra: "accounts {\n" + accounts + "}\n", Connect: []nats.Option{nats.UserInfo("enough", "pw")},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	open := func(t *testing.T, name string) (*jetstreamqueue.Queue, error) {
		t.Helper()
		q, err := jetstreamqueue.Open(t.Context(), jetstreamqueue.Options{
			Servers: []string{s.URL()}, Connect: []nats.Option{nats.UserInfo(name, "pw")}, Logger: slog.New(slog.DiscardHandler),
		})
		if err == nil {
			t.Cleanup(func() { _ = q.Close(t.Context()) })
		}
		return q, err
	}
	for name, want := range map[string][]string{
		"without":    {"enable JetStream for the account"},
		"streams":    {"allow the account 5 streams", "max_streams"},
		"bytes":      {"max_bytes_required: false"},
		"api":        {"$JS.API.", "publish on userhero.> and $JS.API.>"},
		"publishing": {"userhero.", "publish on userhero.> and $JS.API.>"},
		"inbox":      {"_INBOX", "subscribe to userhero.> and _INBOX.>"},
		"peers":      {"userhero.peers", "subscribe to userhero.> and _INBOX.>"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			_, err := open(t, name)
			for _, part := range want {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("the error does not say %q: %v", part, err)
				}
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("it is said after %v", took)
			}
		})
	}
	t.Run("enough", func(t *testing.T) {
		t.Parallel()
		q, err := open(t, "enough")
		if err != nil {
			t.Fatalf("with everything that the page for operators lists: %v", err)
		}
		w, err := q.PutWebhook(t.Context(), queue.Webhook{Name: "w"})
		if err != nil {
			t.Fatal(err)
		}
		e := queue.Entry{Type: "feedback.created", Created: time.Now(), Feedback: queue.FeedbackID{ID: "fb"}, Body: []byte("{}"), Webhooks: []queue.WebhookID{w.ID}}
		if _, err := q.Enqueue(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		l, err := q.Lane(w.ID, queue.LaneOptions{})
		if err != nil {
			t.Fatal(err)
		}
		leases, err := l.Next(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := leases[0].Ack(queue.Attempt{At: time.Now(), Status: 200}); err != nil {
			t.Error(err)
		}
		if sum, err := q.Erase(t.Context(), []queue.FeedbackID{e.Feedback}); err != nil || sum.Events != 1 {
			t.Errorf("Erase: %+v, %v", sum, err)
		}
	})
	// Consumers are enough for one relay. A second one is red, and says why.
	t.Run("consumers", func(t *testing.T) {
		t.Parallel()
		if _, err := open(t, "consumers"); err != nil {
			t.Fatal(err)
		}
		q, err := open(t, "consumers")
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the health says what to grant", func() bool {
			err := q.Health()
			return err != nil && strings.Contains(err.Error(), "consumers on each stream") && strings.Contains(err.Error(), "max_consumers")
		})
	})
	// The account's quota is used up while the queue works: it takes nothing, and says why.
	t.Run("full", func(t *testing.T) {
		t.Parallel()
		q, err := open(t, "full")
		if err != nil {
			t.Fatal(err)
		}
		for n := range 100 {
			_, err = q.Enqueue(t.Context(), queue.Entry{
				Type: "feedback.created", Created: time.Now(), Feedback: queue.FeedbackID{ID: fmt.Sprint(n)}, Body: make([]byte, 2000),
			})
			if err != nil {
				break
			}
		}
		if err == nil || !strings.Contains(err.Error(), queue.ErrFull.Error()) || !strings.Contains(err.Error(), "storage") {
			t.Errorf("the error of a full account: %v", err)
		}
	})
}
