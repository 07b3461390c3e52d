package main

import (
	"context"
	"fmt"
	"time"

	"github.com/userhero/relay/bench/load"
	"github.com/userhero/relay/bench/sink"
)

// latency measures the time from submission to arrival at a modest rate, and how much
// longer that is than through Caddy's reverse_proxy. The difference is the cost of
// storing the event first.
func latency(rate float64) scenario {
	name := fmt.Sprintf("submit to delivered at %.0f/s, ", rate)
	run := func(ctx context.Context, o options, c func(*sink.Sink) config) (outcome, error) {
		var arrivals arrivals
		k, err := sink.Start(ctx, arrivals.deliver)
		if err != nil {
			return outcome{}, err
		}
		defer k.Close()
		s, err := startCaddy(ctx, o, c(k))
		if err != nil {
			return outcome{}, err
		}
		defer s.stop()
		result, err := load.Run(ctx, load.Options{
			Address: s.site, Path: "/feedback", Connections: 8, Duration: o.duration, Rate: rate,
			Body: func(into []byte, n uint64) []byte {
				arrivals.sent(n, time.Now())
				return submission(into, n)
			},
		})
		if err != nil {
			return outcome{}, err
		}
		drained, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		if err := k.Await(drained, result.Answered); err != nil {
			return outcome{}, err
		}
		p50, p99 := milliseconds(arrivals.quantile(0.5)), milliseconds(arrivals.quantile(0.99))
		return outcome{figures: []float64{p50, p99, p50, p99}}, nil
	}
	return scenario{
		rows: []row{
			{name: name + "p50", unit: "ms", most: 0.5},
			{name: name + "p99", unit: "ms", most: 0.9},
			{name: name + "p50 above a proxy's", unit: "ms", against: "reverse_proxy", compare: above},
			{name: name + "p99 above a proxy's", unit: "ms", against: "reverse_proxy", compare: above},
		},
		relay: func(ctx context.Context, o options) (outcome, error) {
			return run(ctx, o, func(k *sink.Sink) config { return relayConfig(k.URLs(1)) })
		},
		baseline: func(ctx context.Context, o options) (outcome, error) { return run(ctx, o, proxyConfig) },
	}
}
