package main

import (
	"context"
	"fmt"
	"time"

	"github.com/userhero/relay/bench/load"
	"github.com/userhero/relay/bench/sink"
)

// latency measures from submit to arrival at a modest rate.
func latency(rate float64) scenario {
	name := fmt.Sprintf("submit to delivered at %.0f/s, ", rate)
	return scenario{
		rows: []row{
			{name: name + "p50", unit: "ms", most: 0.5},
			{name: name + "p99", unit: "ms", most: 0.9},
		},
		relay: func(ctx context.Context, o options) (outcome, error) {
			var arrivals arrivals
			k, err := sink.Start(ctx, arrivals.deliver)
			if err != nil {
				return outcome{}, err
			}
			defer k.Close()
			s, err := startCaddy(ctx, o, relayConfig(k.URLs(1)))
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
			return outcome{figures: []float64{milliseconds(arrivals.quantile(0.5)), milliseconds(arrivals.quantile(0.99))}}, nil
		},
	}
}
