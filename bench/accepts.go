package main

import (
	"context"
	"fmt"
)

// accepts compares durable acknowledgements, without webhooks, with a static response
// of Caddy. Allocations are read from the processes.
func accepts(connections int, bare bool) scenario {
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
		result, err := submitAll(ctx, o, s.site, delivering{connections: connections, bare: bare})
		if err != nil {
			return outcome{}, err
		}
		after, err := s.mallocs(ctx)
		if err != nil {
			return outcome{}, err
		}
		return outcome{
			figures: []float64{result.PerSecond(), s.cpuPer(result.Answered), float64(after-before) / float64(result.Answered)},
			note:    quantiles(result.Latency),
		}, nil
	}
	of := fmt.Sprintf("%d connections", connections)
	smoke, allocations := 0.0, 60.0
	switch {
	case bare:
		of += ", bare"
		allocations = 0 // reading User-Agent is no part of the bound
	case connections == 64: // the smoke run includes only this one
		smoke = 0.08
	}
	return scenario{
		rows: []row{
			{
				name: "durable accepts, " + of, unit: "requests/s",
				against: "respond 202", compare: ratio, least: 0.5, smoke: smoke,
			},
			{
				name: "CPU time of an accept, " + of, unit: "µs",
				against: "respond 202", compare: ratio,
			},
			{
				name: "allocations of an accept, " + of, unit: "allocations",
				against: "respond 202", compare: above, most: allocations,
			},
		},
		relay: func(ctx context.Context, o options) (outcome, error) { return run(ctx, o, relayConfig(nil)) },
		baseline: func(ctx context.Context, o options) (outcome, error) {
			return run(ctx, o, plainConfig("respond /feedback 202"))
		},
	}
}
