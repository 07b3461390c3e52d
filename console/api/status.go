package api

import (
	"net/http"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/relay"
)

func (s *server) status(r *http.Request) (any, error) {
	now := time.Now()
	v := Status{
		Version:       s.version,
		StartedAt:     moment(s.started),
		UptimeSeconds: now.Sub(s.started).Round(time.Millisecond).Seconds(),
		Healthy:       true,
		Webhooks:      map[string]int{relay.Active: 0, relay.Failing: 0, relay.Disabled: 0},
	}
	if err := s.relay.Health(); err != nil {
		v.Healthy, v.Reason = false, err.Error()
	}
	if !s.relay.Scoped() {
		stats := s.relay.Stats()
		v.StoreStatus = &StoreStatus{Events: stats.Events, CommitLatencyMS: milliseconds(stats.Commit), DiskBytes: stats.DiskBytes, LastBackup: moment(s.relay.LastBackup()), CountsAsOf: moment(stats.AsOf)}
		if stats.DiskFree >= 0 {
			v.DiskFreeBytes = &stats.DiskFree
		}
		if stats.Shared {
			owned := stats.LanesOwned()
			v.LanesOwned = &owned
		}
	}
	for _, w := range s.relay.Webhooks() {
		v.Webhooks[w.State]++
		v.Deliveries = v.Deliveries.Add(w.Counts)
	}
	v.OldestDueAge = s.relay.OldestDueAge().Seconds()
	return v, nil
}

// health is for probes: 200 if submissions can be stored and deliveries are sent,
// else 503 and the reason.
func (s *server) health(*http.Request) (any, error) {
	if err := s.relay.Health(); err != nil {
		return nil, event.NewProblem(http.StatusServiceUnavailable, err.Error())
	}
	return map[string]string{"status": "ok"}, nil
}
