package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/userhero/relay/bench/load"
	"github.com/userhero/relay/bench/sink"
)

// latency measures the time from submission to arrival at a modest rate, against that
// through Caddy's reverse_proxy and one sync of a page on the same disk at the same rate.
// A relay must do both.
func latency(rate float64) scenario {
	name := fmt.Sprintf("submit to delivered at %.0f/s, ", rate)
	quantiles := func(sorted []time.Duration, err error) (outcome, error) {
		return outcome{figures: []float64{milliseconds(quantile(sorted, 0.5)), milliseconds(quantile(sorted, 0.99)), milliseconds(quantile(sorted, 1))}}, err
	}
	return scenario{
		rows: []row{
			{name: name + "p50", unit: "ms", against: "proxy + sync", compare: ratio, most: 1.25},
			{name: name + "p99", unit: "ms", against: "proxy + sync", compare: ratio, most: 1.5},
			{name: name + "longest", unit: "ms", against: "proxy + sync", compare: ratio},
		},
		relay: func(ctx context.Context, o options) (outcome, error) {
			return quantiles(arriving(ctx, o, startBadger, toSink, rate))
		},
		baseline: func(ctx context.Context, o options) (outcome, error) {
			proxied, err := arriving(ctx, o, startBadger, proxyConfig, rate)
			if err != nil {
				return outcome{}, err
			}
			syncs, err := syncPages(ctx, o, o.duration/4, rate)
			return quantiles(sums(proxied, syncs), err)
		},
	}
}

// toSink returns a relay with one webhook.
func toSink(k *sink.Sink) config { return relayConfig(k.URLs(1)) }

// arriving submits at a rate, and returns the times from submission to arrival, sorted.
func arriving(ctx context.Context, o options, start starter, c func(*sink.Sink) config, rate float64) ([]time.Duration, error) {
	var arrivals arrivals
	k, err := sink.Start(ctx, arrivals.deliver)
	if err != nil {
		return nil, err
	}
	defer k.Close()
	d, err := start(ctx, o, c(k))
	if err != nil {
		return nil, err
	}
	defer d.stop()
	result, err := d.submit(ctx, load.Options{Connections: 8, Duration: o.duration, Rate: rate, Body: func(into []byte, n uint64) []byte {
		arrivals.sent(n, time.Now())
		return submission(into, n)
	}})
	if err != nil {
		return nil, err
	}
	if err := k.Await(ctx, result.Answered, time.Minute); err != nil {
		return nil, err
	}
	return arrivals.sorted(), nil
}

// sums returns, sorted, the sum of each time of one list with a random one of the other.
func sums(list, other []time.Duration) []time.Duration {
	if len(other) == 0 {
		return list
	}
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same choice each time
	all := make([]time.Duration, len(list))
	for i, d := range list {
		all[i] = d + other[r.IntN(len(other))]
	}
	slices.Sort(all)
	return all
}
