package main

import (
	"context"
	"fmt"
)

// accepts compares durable acknowledgements, without webhooks, with a static response
// of Caddy. Allocations are read from the processes.
func accepts(connections int) scenario {
	run := func(ctx context.Context, o options, c config) (outcome, error) {
		s, err := startCaddy(ctx, o, c)
		if err != nil {
			return outcome{}, err
		}
		defer s.stop()
		before, err := s.mallocs(ctx)
		if err != nil {
			return outcome{}, err
		}
		result, err := submitAll(ctx, o, s.site, connections)
		if err != nil {
			return outcome{}, err
		}
		after, err := s.mallocs(ctx)
		if err != nil {
			return outcome{}, err
		}
		return outcome{
			figures: []float64{result.PerSecond(), s.cpuPer(result.Answered), float64(after-before) / float64(result.Answered)},
			note:    fmt.Sprintf("p50 %s p99 %s", rounded(result.Latency.Quantile(0.5)), rounded(result.Latency.Quantile(0.99))),
		}, nil
	}
	smoke := 0.0
	if connections == 64 { // the smoke run includes only this one
		smoke = 0.08
	}
	return scenario{
		rows: []row{
			{
				name: fmt.Sprintf("durable accepts, %d connections", connections), unit: "requests/s",
				against: "respond 202", compare: ratio, least: 0.45, smoke: smoke,
			},
			{
				name: fmt.Sprintf("CPU time of an accept, %d connections", connections), unit: "µs",
				against: "respond 202", compare: ratio,
			},
			{
				name: fmt.Sprintf("allocations of an accept, %d connections", connections), unit: "allocations",
				against: "respond 202", compare: above, most: 60,
			},
		},
		relay: func(ctx context.Context, o options) (outcome, error) { return run(ctx, o, relayConfig(nil)) },
		baseline: func(ctx context.Context, o options) (outcome, error) {
			return run(ctx, o, plainConfig("respond /feedback 202"))
		},
	}
}
