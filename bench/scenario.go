package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/userhero/relay/bench/load"
)

// scenario is one row of the table: a figure of the relay over a figure of
// Caddy without it, under the same load.
type scenario struct {
	name string
	// unit is what relay and baseline return.
	unit string
	// target is the least ratio wanted.
	target float64
	// relay and baseline each do one run on a fresh process and return the
	// figure, and what there is to say about it.
	relay, baseline func(ctx context.Context, o options) (figure float64, note string, err error)
	// against names the baseline.
	against string
}

var scenarios = []scenario{
	accepts(64),
	accepts(256),
	throughput(1, 0.50),
	latency(200),
}

// figure is one measured row.
type figure struct {
	Scenario string    `json:"scenario"`
	Unit     string    `json:"unit"`
	Against  string    `json:"against,omitempty"`
	Target   float64   `json:"target,omitempty"`
	Ratio    float64   `json:"ratio,omitempty"` // the median of the pairs' ratios
	Met      bool      `json:"met"`
	Relay    []float64 `json:"relay"`
	Baseline []float64 `json:"baseline,omitempty"`
	Notes    []string  `json:"notes,omitempty"`
}

// measure does the pairs, one after the other, the two of a pair in turns.
func (s scenario) measure(ctx context.Context, o options) (figure, error) {
	f := figure{Scenario: s.name, Unit: s.unit, Against: s.against, Target: s.target, Met: true}
	var ratios []float64
	for range o.pairs {
		relay, note, err := s.relay(ctx, o)
		if err != nil {
			return f, fmt.Errorf("the relay: %w", err)
		}
		f.Relay = append(f.Relay, relay)
		if note != "" {
			f.Notes = append(f.Notes, note)
		}
		if s.baseline == nil {
			continue
		}
		baseline, _, err := s.baseline(ctx, o)
		if err != nil {
			return f, fmt.Errorf("%s: %w", s.against, err)
		}
		f.Baseline = append(f.Baseline, baseline)
		ratios = append(ratios, relay/baseline)
	}
	if s.baseline != nil {
		f.Ratio = median(ratios)
		f.Met = f.Ratio >= s.target
	}
	return f, nil
}

func median(of []float64) float64 {
	sorted := slices.Sorted(slices.Values(of))
	if len(sorted) == 0 {
		return 0
	}
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// accepts compares durable acknowledgements, nobody to deliver to, with an
// answer that Caddy makes up on the spot.
func accepts(connections int) scenario {
	submit := func(ctx context.Context, o options, site string) (float64, string, error) {
		result, err := submitAll(ctx, o, site, connections)
		if err != nil {
			return 0, "", err
		}
		return result.PerSecond(), fmt.Sprintf("p50 %s p99 %s", rounded(result.Latency.Quantile(0.5)), rounded(result.Latency.Quantile(0.99))), nil
	}
	return scenario{
		name: fmt.Sprintf("durable accepts, %d connections", connections), unit: "requests/s",
		target: 0.25, against: "respond 202",
		relay: func(ctx context.Context, o options) (float64, string, error) {
			s, err := startCaddy(ctx, o, relayConfig(nil))
			if err != nil {
				return 0, "", err
			}
			defer s.stop()
			return submit(ctx, o, s.site)
		},
		baseline: func(ctx context.Context, o options) (float64, string, error) {
			s, err := startCaddy(ctx, o, plainConfig("respond /feedback 202"))
			if err != nil {
				return 0, "", err
			}
			defer s.stop()
			return submit(ctx, o, s.site)
		},
	}
}

// submitAll is the sustained load that rows share: every connection submits as
// fast as it is answered, and every answer must be 2xx.
func submitAll(ctx context.Context, o options, site string, connections int) (*load.Result, error) {
	result, err := load.Run(ctx, load.Options{
		Address: site, Path: "/feedback", Body: submission,
		Connections: connections, Duration: o.duration,
	})
	if err != nil {
		return nil, err
	}
	if result.Refused > 0 {
		return nil, fmt.Errorf("%d of %d submissions were refused", result.Refused, result.Refused+result.Answered)
	}
	return result, nil
}

func rounded(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }
