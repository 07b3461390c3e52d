package relay

import (
	"fmt"
	"strings"
	"testing"

	"github.com/userhero/relay/relay/deliver"
	"github.com/userhero/relay/relay/notify"
)

func TestNoticesHideThePathThatIsTheSecret(t *testing.T) {
	t.Parallel()
	c, err := deliver.NewClient(deliver.Egress{}, deliver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	to, err := newTarget(WebhookConfig{URL: "https://hooks.slack.com/services/T0/B0/s3cret?also=s3cret"}, c, nil, "test", "")
	if err != nil {
		t.Fatal(err)
	}
	w := &webhook{target: to}
	w.named.Store(newNaming("w"))
	if text := fmt.Sprint(w.reportLocked(lastNotice{Kind: notify.Failing})); strings.Contains(text, "s3cret") || strings.Count(text, "https://hooks.slack.com/...") != 1 {
		t.Errorf("written: %s", text)
	}
}
