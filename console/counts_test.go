package console_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/notify"
)

// mails is a notifier that tells when it is asked to send, and fails.
type mails chan struct{}

func (m mails) Notify(context.Context, []notify.Notice) error {
	select {
	case m <- struct{}{}:
	default:
	}
	return busy{errors.New("the mail server is busy")}
}

// busy is an error after which a mail waits for another try.
type busy struct{ error }

func (busy) Temporary() bool { return true }

// TestMailsAreNotCounted: the relay keeps its mails in the store as events of its
// own. Nobody else has accepted them, and no list shows them.
func TestMailsAreNotCounted(t *testing.T) {
	t.Parallel()
	sending := make(mails, 1)
	v := newVisit(t, relay.Config{
		Webhooks:  []relay.WebhookConfig{{Name: "crm", URL: "http://127.0.0.1:1/", Retry: []time.Duration{}}},
		Notifiers: []notify.Notifier{sending}, GroupNotices: time.Millisecond,
	})
	v.accept("fb_1", `"fails for good"`)
	select {
	case <-sending:
	case <-time.After(30 * time.Second):
		t.Fatal("no mail is sent")
	}
	if n := v.relay.Queue().Stats(context.Background()).Events; n != 2 {
		t.Fatalf("the store holds %d events, want the feedback's and the mail's", n)
	}
	w := httptest.NewRecorder()
	api.New(api.Options{Relay: v.relay}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/status", nil))
	var status struct {
		Events     int64 `json:"events"`
		Deliveries struct{ Pending, Retrying, Held, Failed, Delivered int64 }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &status); err != nil {
		t.Fatal(err)
	}
	d := status.Deliveries
	if status.Events != 1 || d.Pending+d.Retrying+d.Held+d.Failed+d.Delivered != 1 {
		t.Errorf("the API counts %+v", status)
	}
	v.open("/")
	v.says("1 event kept", "nothing waiting")
	if strings.Contains(v.text(), "has been due") {
		t.Errorf("the overview counts the mail: %s", v.text())
	}
}
