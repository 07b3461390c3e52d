package relay

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/relay/deliver"
)

func TestBreakerLetsOneProbeThroughAtATime(t *testing.T) {
	t.Parallel()
	ladder := []time.Duration{time.Second, 4 * time.Second}
	start := time.Date(2026, 1, 7, 15, 30, 0, 0, time.UTC)
	var b breaker
	if ok, _ := b.admits(start); !ok {
		t.Fatal("a closed breaker refuses")
	}
	b.failed(start, false, ladder)
	b.trip(ladder)
	now := start
	for i, delay := range []time.Duration{time.Second, time.Second, 2 * time.Second, 4 * time.Second, 4 * time.Second} {
		ok, wait := b.admits(now)
		if ok || wait != delay {
			t.Fatalf("probe %d: admitted %v, wait %v; want a wait of %v", i, ok, wait, delay)
		}
		now = now.Add(delay)
		if ok, _ := b.admits(now); !ok {
			t.Fatalf("probe %d is not let out in its time", i)
		}
		b.begin()
		if ok, wait := b.admits(now.Add(time.Hour)); ok || wait != 0 {
			t.Fatalf("a second probe beside probe %d: %v, %v", i, ok, wait)
		}
		b.failed(now, false, ladder)
	}
	b.begin()
	b.succeeded(now)
	if ok, _ := b.admits(now); !ok || b.open {
		t.Error("a success leaves the breaker open")
	}
}

func TestBreakerOpensAfterConnectionFailuresInARow(t *testing.T) {
	t.Parallel()
	var b breaker
	now := time.Date(2026, 1, 7, 15, 30, 0, 0, time.UTC)
	for range connectionFailures - 1 {
		b.failed(now, true, nil)
	}
	b.failed(now, false, nil) // the receiver responded, so a connection was made
	for range connectionFailures - 1 {
		b.failed(now, true, nil)
	}
	if b.open {
		t.Fatal("open after fewer failures in a row than it takes")
	}
	if b.failed(now, true, nil); !b.open {
		t.Fatal("closed after ten connections that were never made")
	}
}

func TestWindowGrowsGentlyAndShrinksFast(t *testing.T) {
	t.Parallel()
	var w window
	w.set(8)
	if w.size != 8 {
		t.Fatalf("a new window lets %d out, want all 8", w.size)
	}
	for _, want := range []int{4, 2, 1, 1} {
		if w.shrink(); w.size != want {
			t.Fatalf("shrunk to %d, want %d", w.size, want)
		}
	}
	for range 100 {
		w.grow()
	}
	if w.size != 8 {
		t.Errorf("grown to %d, want 8", w.size)
	}
	w.restart(0)
	w.set(16)
	if w.size != 1 {
		t.Errorf("a wider bound opened a window that was careful to %d", w.size)
	}
}

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
