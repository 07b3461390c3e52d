package api

import (
	"net/http"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/relay"
)

// Status is the relay at a glance, from counters only.
type Status struct {
	Version         string         `json:"version"`
	StartedAt       time.Time      `json:"started_at"`
	UptimeSeconds   float64        `json:"uptime_seconds"`
	Healthy         bool           `json:"healthy"`
	Reason          string         `json:"reason,omitempty"`
	Events          int64          `json:"events"`
	Deliveries      Counts         `json:"deliveries"`
	Webhooks        map[string]int `json:"webhooks"`
	OldestDueAge    float64        `json:"oldest_due_age_seconds"`
	CommitLatencyMS float64        `json:"commit_latency_ms"`
	DiskBytes       int64          `json:"disk_bytes"`
	DiskFreeBytes   *int64         `json:"disk_free_bytes,omitempty"` // absent where unknown
}

// Counts are deliveries by state.
type Counts struct {
	Pending   int64 `json:"pending"`
	Retrying  int64 `json:"retrying"`
	Held      int64 `json:"held"`
	Failed    int64 `json:"failed"`
	Delivered int64 `json:"delivered"`
}

func (s *server) status(*http.Request) (any, error) {
	now := time.Now()
	stats := s.relay.Stats()
	v := Status{
		Version:         s.version,
		StartedAt:       moment(s.started),
		UptimeSeconds:   now.Sub(s.started).Round(time.Millisecond).Seconds(),
		Healthy:         true,
		Events:          stats.Events,
		Webhooks:        map[string]int{relay.Active: 0, relay.Failing: 0, relay.Disabled: 0},
		CommitLatencyMS: milliseconds(stats.Commit),
		DiskBytes:       stats.DiskBytes,
	}
	if err := s.relay.Health(); err != nil {
		v.Healthy, v.Reason = false, err.Error()
	}
	if stats.DiskFree >= 0 {
		v.DiskFreeBytes = &stats.DiskFree
	}
	for _, w := range s.relay.Webhooks() {
		v.Webhooks[w.State]++
		c := countsOf(w)
		v.Deliveries.Pending += c.Pending
		v.Deliveries.Retrying += c.Retrying
		v.Deliveries.Held += c.Held
		v.Deliveries.Failed += c.Failed
		v.Deliveries.Delivered += c.Delivered
	}
	v.OldestDueAge = s.relay.OldestDueAge(s.queue.Stats()).Seconds()
	return v, nil
}

func countsOf(w relay.WebhookStatus) Counts {
	return Counts{
		Pending:   w.Counts.Pending,
		Retrying:  w.Counts.Retrying,
		Held:      w.Counts.Held,
		Failed:    w.Counts.Failed,
		Delivered: w.Counts.Delivered,
	}
}

// health is for probes: 200 while submissions can be stored and deliveries go
// out, else 503 and why.
func (s *server) health(*http.Request) (any, error) {
	if err := s.relay.Health(); err != nil {
		return nil, event.NewProblem(http.StatusServiceUnavailable, err.Error())
	}
	return map[string]string{"status": "ok"}, nil
}

// milliseconds is a duration as the API shows it, to the microsecond.
func milliseconds(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond)) / float64(time.Millisecond)
}
