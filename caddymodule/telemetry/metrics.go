// Package telemetry makes the relay's metrics and spans visible: Prometheus
// collectors, and OpenTelemetry's SDK with the sampler and the exporters that the
// environment asks for.
//
// It promises that observing never delays or loses an event: spans that a collector
// does not take are dropped and counted, and nothing waits for them. It does not know
// Caddy: the caller passes the registry and the logger, and calls Shutdown. Its tests
// scrape a registry and receive spans themselves. The tests of caddymodule and e2e
// check metrics and spans from outside.
package telemetry

import (
	"context"
	"encoding/hex"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/notify"
)

// Metrics are the collectors of one relay. They live as long as the relay, so a
// reload does not reset counters. Each configuration has a new registry, and Register
// is called for each.
//
// A scrape reads the gauges from counters in memory. Label values come from the
// configuration or from a fixed list, never from a client.
type Metrics struct {
	accepted     *prometheus.CounterVec
	acceptedOf   map[string]prometheus.Counter // the counters of accepted, by event type
	ofProject    *prometheus.CounterVec
	rejected     *prometheus.CounterVec
	missed       *prometheus.CounterVec
	ingest       prometheus.Histogram
	commit       prometheus.Histogram
	attempts     *prometheus.CounterVec
	mails        *prometheus.CounterVec
	filterErrors *prometheus.CounterVec
	attempt      *prometheus.HistogramVec
	endToEnd     *prometheus.HistogramVec
	spansLost    *prometheus.Desc

	exemplars struct{ ingest, attempt, endToEnd exemplars }

	// labels bounds the values of the label "webhook", because users may add any
	// number of webhooks.
	labels boundedLabels
	// projects bounds the values of the label "project".
	projects boundedLabels
	// looked caches the series of a webhook, as *perWebhook by the webhook's name. It
	// has only webhooks with a label of their own.
	looked sync.Map

	options MetricsOptions
}

// MetricsOptions are the sources of metrics. All are required.
type MetricsOptions struct {
	// Relay returns the relay, or nil if none is running.
	Relay func() *relay.Relay
	// Certificates returns the certificates of the sites that the configuration names.
	Certificates func() []Certificate
	// SpansLost returns the number of spans that were not exported, by reason, or
	// nil if no spans are made.
	SpansLost func() map[string]int64
	// RejectedReasons and MissedReasons are all reasons that Rejected and Missed may be
	// called with.
	RejectedReasons, MissedReasons []string
}

// Buckets in seconds. An fsync takes 0.1–10 ms on a good disk and up to a second on
// a bad one. An attempt ends within its timeout, by default 30 s. The time from
// acceptance to delivery is between a millisecond and the length of a ladder, which
// may be days.
var (
	ingestBuckets   = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}
	attemptBuckets  = []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
	endToEndBuckets = []float64{.001, .005, .01, .05, .1, .5, 1, 5, 30, 60, 300, 1800, 7200, 21600, 86400, 259200}
)

// NewMetrics returns metrics that are not registered yet.
func NewMetrics(o MetricsOptions) *Metrics {
	webhook := []string{"webhook"}
	m := &Metrics{
		options: o,
		accepted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "userhero_events_accepted_total",
			Help: "Events that were stored durably.",
		}, []string{"type"}),
		ofProject: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "userhero_project_events_accepted_total",
			Help: "Events that were stored durably, by project; of projects that the configuration does not name as _other, and without one as _none.",
		}, []string{"project"}),
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "userhero_events_rejected_total",
			Help: "Submissions that made no event, by reason.",
		}, []string{"reason"}),
		missed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "userhero_passthrough_missed_total",
			Help: "Submissions that the handler behind passthrough accepted and that made no event, by reason.",
		}, []string{"reason"}),
		ingest: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "userhero_ingest_duration_seconds",
			Help:    "Time from a submission's arrival to its durable acceptance.",
			Buckets: ingestBuckets,
		}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "userhero_queue_commit_duration_seconds",
			Help:    "Time of one durable commit of the store, which many submissions share.",
			Buckets: ingestBuckets,
		}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "userhero_delivery_attempts_total",
			Help: "Delivery attempts that ended, by outcome.",
		}, []string{"webhook", "outcome"}),
		mails: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "userhero_emails_sent_total",
			Help: "Notices of a webhook's state that were sent, or were not, by kind and outcome.",
		}, []string{"kind", "outcome"}),
		attempt: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "userhero_delivery_attempt_duration_seconds",
			Help:    "Time of one delivery attempt.",
			Buckets: attemptBuckets,
		}, webhook),
		endToEnd: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "userhero_delivery_end_to_end_seconds",
			Help:    "Time from an event's acceptance to its delivery, retries included.",
			Buckets: endToEndBuckets,
		}, webhook),
		filterErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "userhero_filter_errors_total",
			Help: "Events that a webhook's filter could not judge, and that were not sent to it.",
		}, webhook),
		spansLost: prometheus.NewDesc("userhero_spans_lost_total",
			"Spans that ended and were not exported, by reason.", []string{"reason"}, nil),
	}
	m.acceptedOf = make(map[string]prometheus.Counter)
	for _, t := range event.Types() {
		m.acceptedOf[string(t)] = m.accepted.WithLabelValues(string(t))
	}
	// Export 0 from the start: Prometheus cannot see the increase from nothing to 1.
	for _, reason := range o.RejectedReasons {
		m.rejected.WithLabelValues(reason)
	}
	for _, reason := range o.MissedReasons {
		m.missed.WithLabelValues(reason)
	}
	for _, kind := range []string{notify.Failing, notify.Recovered, notify.Disabled} {
		for _, outcome := range []string{"ok", "retry", "failed"} {
			m.mails.WithLabelValues(kind, outcome)
		}
	}
	return m
}

// Register adds the collectors to a configuration's registry. Registering them in the
// same registry again is not an error.
func (m *Metrics) Register(r prometheus.Registerer) error {
	err := r.Register(m)
	if are := (prometheus.AlreadyRegisteredError{}); errors.As(err, &are) && are.ExistingCollector == m {
		return nil
	}
	return err
}

func (m *Metrics) vectors() []prometheus.Collector {
	return []prometheus.Collector{m.accepted, m.ofProject, m.rejected, m.missed, m.ingest, m.commit, m.attempts, m.mails, m.attempt, m.endToEnd, m.filterErrors}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, v := range m.vectors() {
		v.Describe(ch)
	}
	describeGauges(ch)
	ch <- m.spansLost
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	r := m.options.Relay()
	var webhooks []relay.WebhookStatus
	if r != nil {
		webhooks = r.Webhooks()
		for _, w := range webhooks {
			m.filterErrors.WithLabelValues(m.labels.of(w.Name)) // export 0 from the start
			m.of(w.Name)                                        // the same
		}
		for _, project := range r.Projects() {
			m.ofProject.WithLabelValues(m.projects.of(project)) // the same
		}
	}
	for _, v := range m.vectors() {
		v.Collect(ch)
	}
	for reason, n := range m.options.SpansLost() {
		ch <- prometheus.MustNewConstMetric(m.spansLost, prometheus.CounterValue, float64(n), reason)
	}
	ch <- gauge(clockTime, float64(time.Now().UnixMilli())/1000)
	collectCertificates(ch, m.options.Certificates())
	if r != nil {
		collectCertificates(ch, m.clientCertificates(webhooks))
		stats := r.Queue().Stats(context.Background())
		collectStore(ch, r, stats)
		m.collectWebhooks(ch, r, webhooks, stats)
	}
}

// Committed records the duration of a durable commit of the store.
func (m *Metrics) Committed(took time.Duration, _ int) { m.commit.Observe(took.Seconds()) }

// Ingested implements intake.Observer.
func (m *Metrics) Ingested(took time.Duration, creation queue.TraceContext) {
	m.exemplars.ingest.observe(m.ingest, took, creation)
}

// exemplarLabel is the label of an exemplar that holds the trace id. It is the name
// that Caddy uses in logs. The customary name, trace_id, does not work: the bridge that
// exports this registry over OTLP (contrib/bridges/prometheus v0.71.0) then sends the
// hexadecimal digits as the id's bytes, and collectors refuse the whole export.
const exemplarLabel = "traceID"

// exemplars chooses which observations of a histogram get an exemplar: all that took
// at least longEnough, and of the others one per exemplarPause. A bucket keeps only its
// last exemplar, and an exemplar costs more time than the observation.
type exemplars struct{ last atomic.Int64 } // nanoseconds since 1970

const (
	longEnough    = 100 * time.Millisecond
	exemplarPause = 10 * time.Millisecond
)

func (e *exemplars) wants(d time.Duration) bool {
	if d >= longEnough {
		return true
	}
	now, last := time.Now().UnixNano(), e.last.Load()
	return now-last >= int64(exemplarPause) && e.last.CompareAndSwap(last, now)
}

// observe adds an observation. Its exemplar is the trace t, if t is sampled.
func (e *exemplars) observe(h prometheus.Observer, d time.Duration, t queue.TraceContext) {
	if t.Flags&byte(trace.FlagsSampled) != 0 && e.wants(d) {
		h.(prometheus.ExemplarObserver).ObserveWithExemplar(d.Seconds(), prometheus.Labels{exemplarLabel: hex.EncodeToString(t.TraceID[:])})
		return
	}
	h.Observe(d.Seconds())
}

// Accepted implements relay.Observer; t is one of event.Types.
func (m *Metrics) Accepted(t, project string) {
	m.acceptedOf[t].Inc()
	m.ofProject.WithLabelValues(m.projects.of(project)).Inc()
}

// Rejected implements intake.Observer; reason is one of a fixed list.
func (m *Metrics) Rejected(reason string) { m.rejected.WithLabelValues(reason).Inc() }

// perWebhook holds the series of one webhook that attempts and deliveries update.
type perWebhook struct {
	label             string
	ok                prometheus.Counter // of attempts, with the outcome "ok"
	attempt, endToEnd prometheus.Observer
}

// Missed implements intake.Observer; reason is one of MetricsOptions.MissedReasons.
func (m *Metrics) Missed(reason string) { m.missed.WithLabelValues(reason).Inc() }

func (m *Metrics) of(webhook string) *perWebhook {
	if w, ok := m.looked.Load(webhook); ok {
		return w.(*perWebhook)
	}
	label := m.labels.of(webhook)
	w := &perWebhook{
		label: label, ok: m.attempts.WithLabelValues(label, "ok"),
		attempt: m.attempt.WithLabelValues(label), endToEnd: m.endToEnd.WithLabelValues(label),
	}
	if label == webhook {
		m.looked.Store(webhook, w)
	}
	return w
}

// Attempted implements relay.Observer.
func (m *Metrics) Attempted(webhook, outcome string, took time.Duration, span queue.TraceContext) {
	w := m.of(webhook)
	if outcome == "ok" {
		w.ok.Inc()
	} else {
		m.attempts.WithLabelValues(w.label, outcome).Inc()
	}
	m.exemplars.attempt.observe(w.attempt, took, span)
}

// Delivered implements relay.Observer.
func (m *Metrics) Delivered(webhook string, endToEnd time.Duration, creation queue.TraceContext) {
	m.exemplars.endToEnd.observe(m.of(webhook).endToEnd, endToEnd, creation)
}

// Deleted implements relay.Observer. It deletes the webhook's series.
func (m *Metrics) Deleted(webhook string) {
	if !m.labels.forget(webhook) {
		return // it had no series of its own
	}
	m.looked.Delete(webhook)
	gone := prometheus.Labels{"webhook": webhook}
	m.attempts.DeletePartialMatch(gone)
	m.attempt.DeletePartialMatch(gone)
	m.endToEnd.DeletePartialMatch(gone)
	m.filterErrors.DeletePartialMatch(gone)
}

// FilterFailed implements relay.Observer.
func (m *Metrics) FilterFailed(webhook string) {
	m.filterErrors.WithLabelValues(m.labels.of(webhook)).Inc()
}

// StateChanged implements relay.Observer. It does nothing, because a scrape reads the
// state of each webhook.
func (*Metrics) StateChanged(string, string, string) {}

// Mailed implements relay.Observer.
func (m *Metrics) Mailed(kind, outcome string) { m.mails.WithLabelValues(kind, outcome).Inc() }

// Interface guards
var (
	_ prometheus.Collector = (*Metrics)(nil)
	_ relay.Observer       = (*Metrics)(nil)
)
