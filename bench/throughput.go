package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/userhero/relay/bench/load"
	"github.com/userhero/relay/bench/sink"
)

// throughput compares deliveries per second, from the first submit to the last
// delivery under sustained load, with what Caddy's reverse_proxy, tuned to keep
// its connections, hands to the same sink.
func throughput(webhooks int, target float64) scenario {
	const connections = 64
	return scenario{
		name: fmt.Sprintf("delivered events, %d webhook(s)", webhooks), unit: "deliveries/s",
		target: target, against: "reverse_proxy",
		relay: func(ctx context.Context, o options) (float64, string, error) {
			seen := newSeen()
			k, err := sink.Start(ctx, seen.deliver)
			if err != nil {
				return 0, "", err
			}
			defer k.Close()
			urls := make([]string, webhooks)
			for i := range urls {
				urls[i] = fmt.Sprintf("http://%s/hook/%d", k.Address(), i)
			}
			s, err := startCaddy(ctx, o, relayConfig(urls))
			if err != nil {
				return 0, "", err
			}
			defer s.stop()
			result, err := submitAll(ctx, o, s.site, connections)
			if err != nil {
				return 0, "", err
			}
			accepted := result.Answered * uint64(webhooks)
			behind := accepted - min(accepted, k.Count())
			drained, cancel := context.WithTimeout(ctx, 60*time.Second)
			defer cancel()
			if err := k.Await(drained, accepted); err != nil {
				return 0, "", err
			}
			took := k.Last().Sub(result.Began)
			if distinct := seen.count(); distinct != int(accepted) {
				return 0, "", fmt.Errorf("%d deliveries of %d accepted", distinct, accepted)
			}
			return float64(accepted) / took.Seconds(), fmt.Sprintf("accepted %.0f/s, %d behind at the end of the load", result.PerSecond(), behind), nil
		},
		baseline: func(ctx context.Context, o options) (float64, string, error) {
			k, err := sink.Start(ctx, nil)
			if err != nil {
				return 0, "", err
			}
			defer k.Close()
			s, err := startCaddy(ctx, o, plainConfig(fmt.Sprintf(
				"reverse_proxy %s {\n transport http {\n keepalive_idle_conns_per_host 128\n }\n}", k.Address())))
			if err != nil {
				return 0, "", err
			}
			defer s.stop()
			result, err := submitAll(ctx, o, s.site, connections)
			if err != nil {
				return 0, "", err
			}
			return result.PerSecond(), "", nil
		},
	}
}

// latency measures from submit to arrival at a modest rate. It is no ratio.
func latency(rate float64) scenario {
	return scenario{
		name: fmt.Sprintf("submit to delivered at %.0f/s, p50", rate), unit: "ms",
		relay: func(ctx context.Context, o options) (float64, string, error) {
			var arrivals arrivals
			k, err := sink.Start(ctx, arrivals.deliver)
			if err != nil {
				return 0, "", err
			}
			defer k.Close()
			s, err := startCaddy(ctx, o, relayConfig([]string{"http://" + k.Address() + "/hook"}))
			if err != nil {
				return 0, "", err
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
				return 0, "", err
			}
			drained, cancel := context.WithTimeout(ctx, 30*time.Second)
			defer cancel()
			if err := k.Await(drained, result.Answered); err != nil {
				return 0, "", err
			}
			ms := func(q float64) float64 { return float64(arrivals.quantile(q)) / float64(time.Millisecond) }
			return ms(0.5), fmt.Sprintf("p99 %.2f ms", ms(0.99)), nil
		},
	}
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
