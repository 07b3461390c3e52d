package caddymodule

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/userhero/relay/intake"
)

// metricsOf makes metrics in a registry of their own.
func metricsOf(t *testing.T) (metrics, *engine, *prometheus.Registry) {
	t.Helper()
	m := newMetrics()
	registry := prometheus.NewPedanticRegistry()
	if err := m.Register(registry); err != nil {
		t.Fatal(err)
	}
	return m, nil, registry
}

// samples are the series of a scrape that contain a text.
func samples(t *testing.T, registry *prometheus.Registry, text string) string {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if line := f.GetName() + " " + m.String(); strings.Contains(line, text) {
				b.WriteString(line + "\n")
			}
		}
	}
	return b.String()
}

// count is how many series a metric has.
func count(t *testing.T, registry *prometheus.Registry, name string) int {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return len(f.GetMetric())
		}
	}
	return 0
}

// TestNoticesThatWaitForOthersAreNotLate: what is grouped for a minute is not
// late; what has waited for its attempt is.
func TestNoticesThatWaitForOthersAreNotLate(t *testing.T) {
	s, h := newSite(t), newHook(t)
	h.status = http.StatusInternalServerError
	s.load("webhook app {\nurl "+h.URL+`
retry 1ms
}
notify smtp {
	host 127.0.0.1:1
	from a@example.com
	to b@example.com
	tls none
}
`, directive)
	s.post(`{"message":"fails twice"}`)
	h.await(t, 2)
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(s.api("/webhooks/app").Body, `"failing"`); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the webhook is not failing")
		}
	}
	for until := time.Now().Add(300 * time.Millisecond); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		a, err := request(http.MethodGet, "http://"+s.admin+"/metrics", "")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(a.Body, "\nuserhero_queue_oldest_due_age_seconds 0\n") {
			t.Fatalf("a notice counts as late: %s", grep(a.Body, "oldest_due"))
		}
	}
}

// TestEveryReasonMissedBeginsAtZero: an alert on a counter that is not there yet
// sees nothing of its first increase.
func TestEveryReasonMissedBeginsAtZero(t *testing.T) {
	m, _, registry := metricsOf(t)
	all := intake.MissedReasons()
	if n := count(t, registry, "userhero_passthrough_missed_total"); n != len(all) {
		t.Errorf("%d series, want %d", n, len(all))
	}
	for _, reason := range append(all, "closed") {
		m.Missed(reason)
	}
	if n := count(t, registry, "userhero_passthrough_missed_total"); n != len(all) {
		t.Errorf("%d series after misses, want %d", n, len(all))
	}
	if s := strings.ReplaceAll(samples(t, registry, "missed"), "  ", " "); !strings.Contains(s, `value:"closed"} counter:{value:2`) {
		t.Errorf("samples:\n%s", s)
	}
}
