package relay

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
)

// TestSpansAndNoticesHideThePathThatIsTheSecret: both write the URL of a webhook.
func TestSpansAndNoticesHideThePathThatIsTheSecret(t *testing.T) {
	t.Parallel()
	to, err := url.Parse("https://hooks.slack.com/services/T0/B0/s3cret?also=s3cret")
	if err != nil {
		t.Fatal(err)
	}
	w := &webhook{target: &target{url: to}}
	notice := w.noticeLocked()
	if text := fmt.Sprint(describe(to), notice); strings.Contains(text, "s3cret") || strings.Count(text, "https://hooks.slack.com/...") != 2 {
		t.Errorf("written: %s", text)
	}
}
