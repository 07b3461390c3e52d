package telemetry

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
)

// The gauges. A scrape makes them of the relay's counters in memory.
var (
	deliveries = prometheus.NewDesc("userhero_deliveries",
		"Deliveries in the store, by state.", []string{"webhook", "state"}, nil)
	oldestDue = prometheus.NewDesc("userhero_queue_oldest_due_age_seconds",
		"How long the oldest due delivery has waited for its attempt; 0 if nothing is due.", []string{"webhook"}, nil)
	webhookState = prometheus.NewDesc("userhero_webhook_state",
		"1 for the state a webhook is in, 0 for the others; of the webhook _other, how many are in it.", []string{"webhook", "state"}, nil)
	throttled = prometheus.NewDesc("userhero_webhook_throttled",
		"1 if due deliveries of the webhook wait for this reason; of the webhook _other, for how many they do.", []string{"webhook", "reason"}, nil)
	disk = prometheus.NewDesc("userhero_queue_disk_bytes",
		"Size of the store's files.", nil, nil)
	diskFree = prometheus.NewDesc("userhero_queue_disk_free_bytes",
		"Free space of the store's file system; absent if it is unknown.", nil, nil)
	maxDisk = prometheus.NewDesc("userhero_queue_max_disk_bytes",
		"The limit max_disk of the store; absent if there is none.", nil, nil)
	lanesOwned = prometheus.NewDesc("userhero_lanes_owned",
		"Webhooks and mailboxes that this relay delivers to; absent if no other relay can work on the store.", nil, nil)
	owned = prometheus.NewDesc("userhero_webhook_owned",
		"1 if this relay delivers to the webhook, 0 if another relay does or none; absent while it is disabled or not in the configuration, and if no other relay can work on the store.", []string{"webhook"}, nil)
	unavailable = prometheus.NewDesc("userhero_queue_unavailable_total",
		"Calls that the servers of the store did not answer in time; absent if the store has no servers.", nil, nil)
	healthy = prometheus.NewDesc("userhero_healthy",
		"1 while the store takes events and deliveries are sent, else 0.", nil, nil)
	backupAge = prometheus.NewDesc("userhero_backup_age_seconds",
		"Age of the newest backup that was read back whole; absent before the first one.", nil, nil)
	clockTime = prometheus.NewDesc("userhero_clock_timestamp_seconds",
		"The time of this machine's clock when it was scraped.", nil, nil)
	certificateExpiry = prometheus.NewDesc("userhero_certificate_expiry_timestamp_seconds",
		"When the certificate of a site, or the one that a webhook's receiver is shown, expires.", []string{"kind", "name"}, nil)
	certificateLifetime = prometheus.NewDesc("userhero_certificate_lifetime_seconds",
		"For how long that certificate is valid in all.", []string{"kind", "name"}, nil)
)

func describeGauges(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		deliveries, oldestDue, webhookState, throttled, disk, diskFree, maxDisk, lanesOwned, owned, unavailable, healthy, backupAge, clockTime, certificateExpiry, certificateLifetime,
	} {
		ch <- d
	}
}

func gauge(d *prometheus.Desc, value float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}

// oneIf is 1 for true.
func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// collectStore collects the gauges of the store.
func collectStore(ch chan<- prometheus.Metric, r *relay.Relay, stats queue.Stats) {
	ch <- gauge(disk, float64(stats.DiskBytes))
	if stats.DiskFree >= 0 {
		ch <- gauge(diskFree, float64(stats.DiskFree))
	}
	if stats.MaxDisk > 0 {
		ch <- gauge(maxDisk, float64(stats.MaxDisk))
	}
	if stats.Shared {
		ch <- gauge(lanesOwned, float64(stats.LanesOwned()))
		ch <- prometheus.MustNewConstMetric(unavailable, prometheus.CounterValue, float64(stats.Unavailable))
	}
	ch <- gauge(healthy, oneIf(r.Health() == nil))
	if at := r.LastBackup(); !at.IsZero() {
		ch <- gauge(backupAge, max(0, time.Since(at).Seconds()))
	}
}

// The values of the label "state".
var (
	countedStates = []string{"pending", "retrying", "held", "failed", "delivered"}
	webhookStates = []string{relay.Active, relay.Failing, relay.Disabled}
)

// notices is the label of what waits to be sent to people. No webhook can have this
// name.
const notices = "_notices"

// reading are the gauges of one value of the label "webhook".
type reading struct {
	deliveries [5]float64 // by countedStates
	states     [3]float64 // by webhookStates
	throttled  [3]float64 // by relay.Throttles
	due        time.Duration
}

// collectWebhooks collects the gauges of webhooks. Webhooks that share the label
// otherLabel are added up; of their ages the largest counts, and who owns them is left
// out. It removes the webhooks from stats, the queue's counters.
func (m *Metrics) collectWebhooks(ch chan<- prometheus.Metric, r *relay.Relay, webhooks []relay.WebhookStatus, stats queue.Stats) {
	byLabel := make(map[string]*reading, len(webhooks))
	for _, w := range webhooks {
		label := m.labels.of(w.Name)
		read := byLabel[label]
		if read == nil {
			read = new(reading)
			byLabel[label] = read
		}
		for i, n := range [...]int64{w.Counts.Pending, w.Counts.Retrying, w.Counts.Held, w.Counts.Failed, w.Counts.Delivered} {
			read.deliveries[i] += float64(n)
		}
		read.states[slices.Index(webhookStates, w.State)]++
		if i := slices.Index(relay.Throttles(), w.Throttled); i >= 0 {
			read.throttled[i]++
		}
		read.due = max(read.due, r.DueAge(w.ID, stats.Webhooks[w.ID]))
		if stats.Shared && w.State != relay.Disabled && !w.Parked && label == w.Name {
			ch <- gauge(owned, oneIf(stats.Webhooks[w.ID].Owned), label)
		}
		delete(stats.Webhooks, w.ID)
	}
	for label, read := range byLabel {
		for i, state := range countedStates {
			ch <- gauge(deliveries, read.deliveries[i], label, state)
		}
		for i, state := range webhookStates {
			ch <- gauge(webhookState, read.states[i], label, state)
		}
		for i, reason := range relay.Throttles() {
			ch <- gauge(throttled, read.throttled[i], label, string(reason))
		}
		ch <- gauge(oldestDue, read.due.Seconds(), label)
	}
	collectNotices(ch, r, stats.Webhooks)
}

// collectNotices collects the age of the oldest notice; stats are the counters of
// everything that is no webhook.
func collectNotices(ch chan<- prometheus.Metric, r *relay.Relay, stats map[queue.WebhookID]queue.WebhookStats) {
	if len(stats) == 0 {
		return
	}
	oldest := time.Duration(0)
	for id, s := range stats {
		oldest = max(oldest, r.DueAge(id, s))
	}
	ch <- gauge(oldestDue, oldest.Seconds(), notices)
}

// Certificate is a certificate that a person must renew before it expires.
type Certificate struct {
	Kind, Name          string // "site" and its name, or "webhook" and its name
	NotBefore, NotAfter time.Time
}

// clientCertificates returns the certificates that receivers are shown. Those of
// webhooks without a label of their own are left out.
func (m *Metrics) clientCertificates(webhooks []relay.WebhookStatus) (all []Certificate) {
	for _, w := range webhooks {
		if c := w.TLS.Certificate; !c.Expires.IsZero() && m.labels.of(w.Name) == w.Name {
			all = append(all, Certificate{"webhook", w.Name, c.Begins, c.Expires})
		}
	}
	return all
}

func collectCertificates(ch chan<- prometheus.Metric, all []Certificate) {
	for _, c := range all {
		ch <- gauge(certificateExpiry, float64(c.NotAfter.Unix()), c.Kind, c.Name)
		ch <- gauge(certificateLifetime, c.NotAfter.Sub(c.NotBefore).Seconds(), c.Kind, c.Name)
	}
}
