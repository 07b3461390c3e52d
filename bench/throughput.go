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
func throughput(webhooks, connections int, bare bool) scenario {
	r := row{
		name: "delivered events, one webhook", unit: "deliveries/s",
		against: "reverse_proxy", compare: ratio, least: 1.05, smoke: 0.15,
	}
	switch {
	case webhooks > 1:
		r.name, r.least, r.smoke = fmt.Sprintf("deliveries, %d webhooks", webhooks), 2.5, 0
	case connections != 64:
		r.name, r.least, r.smoke = fmt.Sprintf("%s, %d connections", r.name, connections), 0, 0
	case bare:
		r.name, r.smoke = r.name+", bare", 0
	}
	return scenario{
		rows: []row{
			r,
			{name: "CPU time, " + r.name, unit: "µs", against: "reverse_proxy", compare: ratio},
			{name: "waiting at the end, " + r.name, unit: "s of intake", most: 2},
			{name: "written to the disk, " + r.name, unit: "× 1 KiB", most: 3.5},
		},
		relay: func(ctx context.Context, o options) (outcome, error) {
			return deliverAll(ctx, o, delivering{webhooks: webhooks, connections: connections, bare: bare})
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
			result, err := submitAll(ctx, o, s.site, delivering{connections: connections, bare: bare})
			if err != nil {
				return outcome{}, err
			}
			return outcome{figures: []float64{result.PerSecond(), s.cpuPer(result.Answered), 0, 0}}, nil
		},
	}
}

// delivering is what deliverAll does.
type delivering struct {
	webhooks, connections int
	bare                  bool
	env                   []string // the relay's environment
	rate                  float64  // of submissions per second; 0 means as fast as they are answered
}

// deliverAll runs a relay until all events accepted under sustained load are delivered. It
// returns deliveries per second, CPU time per delivery, how many seconds of intake waited
// when the load ended, and how many KiB the relay wrote to the disk for each event.
func deliverAll(ctx context.Context, o options, d delivering) (outcome, error) {
	seen := newSeen()
	k, err := sink.Start(ctx, seen.deliver)
	if err != nil {
		return outcome{}, err
	}
	defer k.Close()
	c := relayConfig(k.URLs(d.webhooks))
	c.env = d.env
	s, err := startCaddy(ctx, o, c)
	if err != nil {
		return outcome{}, err
	}
	defer s.stop()
	result, err := submitAll(ctx, o, s.site, d)
	if err != nil {
		return outcome{}, err
	}
	accepted := result.Answered * uint64(d.webhooks)
	behind := accepted - min(accepted, k.Count())
	if err := k.Await(ctx, accepted, max(time.Minute, 2*o.duration)); err != nil {
		return outcome{}, err
	}
	took := k.Last().Sub(result.Began)
	if distinct := seen.count(); distinct != int(accepted) {
		return outcome{}, fmt.Errorf("%d deliveries of %d accepted", distinct, accepted)
	}
	written, err := diskWrites(s.process.PID())
	if err != nil {
		return outcome{}, err
	}
	return outcome{
		figures: []float64{
			float64(accepted) / took.Seconds(), s.cpuPer(accepted), float64(behind) / float64(d.webhooks) / result.PerSecond(),
			float64(written) / 1024 / float64(result.Answered),
		},
		note: fmt.Sprintf("accepted %.0f/s, %d behind at the end of the load", result.PerSecond(), behind),
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
