package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/userhero/relay/bench/sink"
)

// throughput compares deliveries per second under sustained load, from the first
// submission to the last delivery, with those of Caddy's reverse_proxy to the same
// sink. The proxy is tuned to keep its connections.
func throughput(webhooks int) scenario {
	const connections = 64
	r := row{
		name: "delivered events, one webhook", unit: "deliveries/s",
		against: "reverse_proxy", compare: ratio, least: 1.0, smoke: 0.15,
	}
	if webhooks > 1 {
		r.name, r.least, r.smoke = fmt.Sprintf("deliveries, %d webhooks", webhooks), 2.5, 0
	}
	cost := row{name: "CPU time, " + r.name, unit: "µs", against: "reverse_proxy", compare: ratio}
	return scenario{
		rows: []row{r, cost},
		relay: func(ctx context.Context, o options) (outcome, error) {
			return deliverAll(ctx, o, webhooks, connections, nil)
		},
		baseline: func(ctx context.Context, o options) (outcome, error) {
			k, err := sink.Start(ctx, nil)
			if err != nil {
				return outcome{}, err
			}
			defer k.Close()
			s, err := startCaddy(ctx, o, proxyConfig(k))
			if err != nil {
				return outcome{}, err
			}
			defer s.stop()
			result, err := submitAll(ctx, o, s.site, connections)
			if err != nil {
				return outcome{}, err
			}
			return outcome{figures: []float64{result.PerSecond(), s.cpuPer(result.Answered)}}, nil
		},
	}
}

// deliverAll runs a relay with the environment env until all events accepted under
// sustained load are delivered. It returns deliveries per second and CPU time per
// delivery.
func deliverAll(ctx context.Context, o options, webhooks, connections int, env []string) (outcome, error) {
	seen := newSeen()
	k, err := sink.Start(ctx, seen.deliver)
	if err != nil {
		return outcome{}, err
	}
	defer k.Close()
	c := relayConfig(k.URLs(webhooks))
	c.env = env
	s, err := startCaddy(ctx, o, c)
	if err != nil {
		return outcome{}, err
	}
	defer s.stop()
	result, err := submitAll(ctx, o, s.site, connections)
	if err != nil {
		return outcome{}, err
	}
	accepted := result.Answered * uint64(webhooks)
	behind := accepted - min(accepted, k.Count())
	drained, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	if err := k.Await(drained, accepted); err != nil {
		return outcome{}, err
	}
	took := k.Last().Sub(result.Began)
	if distinct := seen.count(); distinct != int(accepted) {
		return outcome{}, fmt.Errorf("%d deliveries of %d accepted", distinct, accepted)
	}
	return outcome{
		figures: []float64{float64(accepted) / took.Seconds(), s.cpuPer(accepted)},
		note:    fmt.Sprintf("accepted %.0f/s, %d behind at the end of the load", result.PerSecond(), behind),
	}, nil
}

// seen counts distinct deliveries.
type seen struct {
	mu  sync.Mutex
	ids map[string]struct{}
}

func newSeen() *seen { return &seen{ids: map[string]struct{}{}} }

func (s *seen) deliver(delivery string, _ []byte, _ time.Time) {
	s.mu.Lock()
	s.ids[delivery] = struct{}{}
	s.mu.Unlock()
}

func (s *seen) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ids)
}
