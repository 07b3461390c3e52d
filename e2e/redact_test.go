package e2e

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/userhero/relay/e2e/natsproc"
)

// TestRedactedTextIsGone: with redact_after, the text of a delivered event is found at first,
// and then neither shown, found nor delivered again. The deliveries are still counted.
func TestRedactedTextIsGone(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{"badger", "jetstream"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			r := startReceiver(t, nil)
			o := relayOptions{app: fmt.Sprintf("webhook app {\n url %s\n secret %s\n}\nredact_after 8s", r.url, secret)}
			if engine == "jetstream" {
				o.nats = startNATS(t, 1, natsproc.Options{})
			}
			s := startRelay(t, o)
			id := s.mustSubmit("a canary in the text")
			r.await(t, 20*time.Second, "it has arrived", func(all []arrival) bool { return feedbackIDs(t, all)[id] == 1 })
			var found struct {
				Items []struct {
					FeedbackID string `json:"feedback_id"`
					Message    string
					Redacted   bool
				}
			}
			s.get("/events?q=canary", &found)
			if len(found.Items) != 1 || found.Items[0].Message == "" {
				t.Errorf("before redaction these are found: %+v", found.Items)
			}
			eventually(t, time.Minute, "it is redacted", func() bool {
				found.Items = nil
				s.get("/events?limit=10", &found)
				return len(found.Items) == 1 && found.Items[0].Redacted
			})
			if e := found.Items[0]; e.Message != "" || e.FeedbackID != id {
				t.Errorf("redacted: %+v", e)
			}
			found.Items = nil
			if s.get("/events?q=canary", &found); len(found.Items) > 0 {
				t.Errorf("after redaction it is found: %+v", found.Items)
			}
			deliveries := s.deliveries("app")
			if len(deliveries) != 1 || deliveries[0].State != "delivered" || s.webhook("app").Counts.Delivered != 1 {
				t.Fatalf("the deliveries: %+v", deliveries)
			}
			s.ask(http.MethodPost, "/deliveries/"+deliveries[0].ID+"/redeliver", "", http.StatusGone)
			if n := len(r.arrivals()); n != 1 {
				t.Errorf("%d requests have arrived", n)
			}
		})
	}
}
