package relay

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/relay/deliver"
)

func TestRatesAreRead(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]Rate{
		"50/s": {50, time.Second}, "100/m": {100, time.Minute}, "3/h": {3, time.Hour}, "5/10s": {5, 10 * time.Second},
	} {
		got, err := ParseRate(in)
		if err != nil || got != want || got.String() != in {
			t.Errorf("%q reads as %+v, %v and writes as %q", in, got, err, got)
		}
	}
	for _, in := range []string{"", "50", "0/s", "-1/s", "1/", "1/x", "1/-1s", "x/s"} {
		if _, err := ParseRate(in); err == nil {
			t.Errorf("%q is taken for a rate", in)
		}
	}
}

func TestValidateNamesTheOption(t *testing.T) {
	t.Parallel()
	good := WebhookConfig{Name: "crm", URL: "https://crm.example.com/hooks"}
	if err := (Config{Webhooks: []WebhookConfig{good}}).Validate(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*WebhookConfig){
		"name:":        func(w *WebhookConfig) { w.Name = "a/b" },
		"url:":         func(w *WebhookConfig) { w.URL = "ftp://x" },
		"credentials":  func(w *WebhookConfig) { w.URL = "https://u:p@x/" },
		"secret:":      func(w *WebhookConfig) { w.Secret = "whsec_!" },
		"events:":      func(w *WebhookConfig) { w.Events = append(w.Events, "feedback.eaten") },
		"filter:":      func(w *WebhookConfig) { w.Filter = "data.rating <" },
		"header:":      func(w *WebhookConfig) { w.Header = http.Header{"x-userhero-signature": {"x"}} },
		"control":      func(w *WebhookConfig) { w.Header = http.Header{"X-A": {"a\r\nb: c"}} },
		"retry:":       func(w *WebhookConfig) { w.Retry = []time.Duration{-1} },
		"timeout:":     func(w *WebhookConfig) { w.Timeout = time.Hour },
		"concurrency:": func(w *WebhookConfig) { w.Concurrency = 1 << 20 },
	} {
		w := good
		change(&w)
		err := Config{Webhooks: []WebhookConfig{w}}.Validate()
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "webhook ") {
			t.Errorf("want an error that names the webhook and %q, got %v", want, err)
		}
	}
	if err := (Config{Webhooks: []WebhookConfig{good, good}}).Validate(); err == nil {
		t.Error("two webhooks of one name are taken")
	}
	if err := (Config{Egress: deliver.Egress{Allow: []string{"not a host"}}}).Validate(); err == nil {
		t.Error("an allow that is nothing is taken")
	}
}
