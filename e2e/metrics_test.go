package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// scrape reads the relay's own metrics, as Prometheus would.
func (s *relayServer) scrape() []*dto.MetricFamily {
	s.t.Helper()
	response, err := s.client.Get("http://" + s.admin + "/metrics")
	if err != nil {
		s.t.Fatalf("scraping: %v", err)
	}
	defer func() { _ = response.Body.Close() }()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	all, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		s.t.Fatalf("scraping: %v", err)
	}
	var own []*dto.MetricFamily
	for name, family := range all {
		if len(name) > 9 && name[:9] == "userhero_" {
			own = append(own, family)
		}
	}
	return own
}

// counted are the values that may only grow, by series.
func counted(families []*dto.MetricFamily) map[string]float64 {
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			series := fmt.Sprint(f.GetName(), m.GetLabel())
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				values[series] = m.GetCounter().GetValue()
			case dto.MetricType_HISTOGRAM:
				h := m.GetHistogram()
				values[series+" count"], values[series+" sum"] = float64(h.GetSampleCount()), h.GetSampleSum()
				for _, b := range h.GetBucket() {
					values[fmt.Sprint(series, " ", b.GetUpperBound())] = float64(b.GetCumulativeCount())
				}
			}
		}
	}
	return values
}

// TestCountersOnlyGrow: over twenty reloads under load no counter goes back and
// none is lost; and what is scraped is what Prometheus' own linter asks for.
func TestCountersOnlyGrow(t *testing.T) {
	r := startReceiver(t, func(a arrival) int {
		if a.attempt == "1" {
			return http.StatusServiceUnavailable // failures have counters of their own
		}
		return http.StatusNoContent
	})
	webhook := fmt.Sprintf("webhook app {\n url %s\n secret %s\n retry 10ms 10ms 10ms\n concurrency %%d\n}", r.url, secret)
	s := startRelay(t, relayOptions{app: fmt.Sprintf(webhook, 8)})
	s.client.Transport.(*http.Transport).DisableKeepAlives = true // the admin endpoint changes hands
	l := newLoad(t)
	l.start(s, 4, true)
	before := map[string]float64{}
	for n := range 20 {
		acknowledged := l.acknowledgements()
		eventually(t, 30*time.Second, "more acknowledged events", func() bool { return l.acknowledgements() >= acknowledged+5 })
		s.options.app = fmt.Sprintf(webhook, 8+n)
		if err := s.reload(s.caddyfile(s.options)); err != nil {
			t.Fatal(err)
		}
		now := counted(s.scrape())
		for series, was := range before {
			is, ok := now[series]
			if !ok || is < was {
				t.Errorf("after reload %d %s is %v, was %v", n+1, series, is, was)
			}
		}
		before = now
	}
	l.end()
	if len(before) < 50 {
		t.Errorf("only %d values were watched", len(before))
	}
	accepted := func() (sum float64) {
		for series, value := range counted(s.scrape()) {
			if strings.HasPrefix(series, "userhero_events_accepted_total") {
				sum += value // of each type of event
			}
		}
		return sum
	}
	if got, want := accepted(), float64(l.acknowledgements()); got < want {
		t.Errorf("%v events are counted, %v were acknowledged", got, want)
	}
	problems, err := promlint.NewWithMetricFamilies(s.scrape()).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}
