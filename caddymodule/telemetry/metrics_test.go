package telemetry

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/userhero/relay/intake"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
	"github.com/userhero/relay/relay"
)

// metricsOf returns the metrics of a relay on a queue in memory. They have a registry
// of their own.
func metricsOf(t *testing.T) (*Metrics, *relay.Relay, *prometheus.Registry) {
	t.Helper()
	var r *relay.Relay
	m := NewMetrics(MetricsOptions{
		Relay:     func() *relay.Relay { return r },
		SpansLost: func() map[string]int64 { return map[string]int64{"queue_full": 1} },

		Certificates: func() []Certificate {
			return []Certificate{{"site", "feedback.example.com", time.Unix(1000, 0), time.Unix(5000, 0)}}
		},
		RejectedReasons: intake.RejectedReasons(), MissedReasons: intake.MissedReasons(),
	})
	r = relay.New(relay.Options{Queue: memqueue.New(memqueue.Options{}), Observer: m})
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := r.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	if _, err := r.Attach(relay.Config{}); err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewPedanticRegistry()
	if err := m.Register(registry); err != nil {
		t.Fatal(err)
	}
	return m, r, registry
}

// add adds a webhook to which nothing is sent.
func add(t *testing.T, r *relay.Relay, name string) {
	t.Helper()
	if err := r.Add(t.Context(), relay.WebhookConfig{Name: name, URL: "https://receiver.example/"}, "test"); err != nil {
		t.Fatal(err)
	}
}

// samples returns the series of a scrape that contain a text.
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

// count returns the number of series of a metric.
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

func TestWebhooksBeyondTheBoundShareALabel(t *testing.T) {
	t.Parallel()
	m, r, registry := metricsOf(t)
	for i := range maxLabels + 3 {
		name := fmt.Sprintf("w%03d", i)
		add(t, r, name)
		m.Attempted(name, "ok", time.Second, queue.TraceContext{})
		m.Delivered(name, time.Second, queue.TraceContext{})
	}
	if n := count(t, registry, "userhero_delivery_attempts_total"); n != maxLabels+1 {
		t.Errorf("%d series of attempts, want %d and one of the others", n, maxLabels)
	}
	for name, want := range map[string]int{
		"userhero_deliveries": (maxLabels + 1) * len(countedStates), "userhero_webhook_state": (maxLabels + 1) * len(webhookStates),
		"userhero_delivery_attempt_duration_seconds": maxLabels + 1, "userhero_delivery_end_to_end_seconds": maxLabels + 1,
	} {
		if n := count(t, registry, name); n != want {
			t.Errorf("%d series of %s, want %d", n, name, want)
		}
	}
	if s := samples(t, registry, otherLabel); !strings.Contains(s, "counter:{value:3") || !strings.Contains(s, "gauge:{value:3}") {
		t.Errorf("the others do not add up to 3 attempts and 3 active ones:\n%s", s)
	}
}

func TestSeriesGoWithTheirWebhook(t *testing.T) {
	t.Parallel()
	m, r, registry := metricsOf(t)
	for i := range maxLabels + 1 {
		name := fmt.Sprintf("w%03d", i)
		add(t, r, name)
		m.Attempted(name, "timeout", time.Second, queue.TraceContext{})
		m.Delivered(name, time.Second, queue.TraceContext{})
	}
	if samples(t, registry, `"w007"`) == "" {
		t.Fatal("the webhook has no series to lose")
	}
	if _, err := r.Delete(t.Context(), "w007", "test"); err != nil {
		t.Fatal(err)
	}
	if s := samples(t, registry, `"w007"`); s != "" {
		t.Errorf("the deleted webhook still has\n%s", s)
	}
	// Its label is free for the webhook that had none.
	last := fmt.Sprintf("w%03d", maxLabels)
	m.Attempted(last, "ok", time.Second, queue.TraceContext{})
	if samples(t, registry, `"`+last+`"`) == "" {
		t.Errorf("%s has no series of its own", last)
	}
}

func TestAWebhookThatComesAgainCountsAnew(t *testing.T) {
	t.Parallel()
	m, r, registry := metricsOf(t)
	for range 2 {
		add(t, r, "w")
		for range 3 {
			m.Attempted("w", "ok", time.Second, queue.TraceContext{})
			m.Delivered("w", time.Second, queue.TraceContext{})
		}
		for _, name := range []string{"userhero_delivery_attempts_total", "userhero_delivery_attempt_duration_seconds", "userhero_delivery_end_to_end_seconds"} {
			if s := samples(t, registry, name); !strings.Contains(s, "value:3 ") && !strings.Contains(s, "sample_count:3 ") {
				t.Errorf("not 3 of a webhook's own: %s", s)
			}
		}
		if _, err := r.Delete(t.Context(), "w", "test"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHistogramsHaveTheirTracesAsExemplars(t *testing.T) {
	t.Parallel()
	m, _, registry := metricsOf(t)
	sampled := queue.TraceContext{TraceID: [16]byte{0xab, 15: 0xcd}, SpanID: [8]byte{1}, Flags: 1}
	m.Attempted("w", "ok", time.Second, sampled)
	m.Delivered("w", time.Second, sampled)
	m.Ingested(time.Second, sampled)
	want := "ab0000000000000000000000000000cd"
	for _, name := range []string{"userhero_delivery_attempt_duration_seconds", "userhero_delivery_end_to_end_seconds", "userhero_ingest_duration_seconds"} {
		if s := samples(t, registry, name); !strings.Contains(s, want) {
			t.Errorf("%s has no exemplar: %s", name, s)
		}
	}
	unseen := queue.TraceContext{TraceID: [16]byte{0xef}, SpanID: [8]byte{1}}
	m.Attempted("v", "ok", time.Second, unseen)
	if s := samples(t, registry, "exemplar"); strings.Contains(s, "ef00") {
		t.Errorf("an exemplar names a trace that nobody can look at: %s", s)
	}
}

func TestMetricsPassPromlint(t *testing.T) {
	t.Parallel()
	m, r, registry := metricsOf(t)
	add(t, r, "w")
	m.Accepted("feedback.created", relay.NoProject)
	m.Rejected("invalid")
	m.Committed(time.Millisecond, 1)
	m.Ingested(time.Millisecond, queue.TraceContext{})
	m.Attempted("w", "ok", time.Second, queue.TraceContext{})
	m.Delivered("w", time.Second, queue.TraceContext{})
	m.Mailed("failing", "ok")
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if len(families) < 12 {
		t.Errorf("%d families are linted, want all", len(families))
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// TestEveryReasonMissedBeginsAtZero: an alert on a counter that does not exist yet
// misses its first increase.
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
