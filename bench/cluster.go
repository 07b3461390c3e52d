package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/userhero/relay/bench/load"
	"github.com/userhero/relay/bench/sink"
	"github.com/userhero/relay/e2e/natsproc"
)

// clusterScenarios compare two relays on three NATS servers with one relay on Badger, on
// this one machine.
func clusterScenarios() []scenario {
	return []scenario{
		clusterAccepts(256),
		clusterDeliveries(1),
		clusterDeliveries(5),
		clusterLatency(200),
		clusterTakeover(8),
		clusterWaiting(100_000, false),
		clusterWaiting(1_000_000, true),
	}
}

// deployment is relays that work as one, and the NATS servers that they work on.
type deployment struct {
	relays  []*server
	servers []*natsproc.Server
	dir     string
	before  time.Duration // CPU time of the start
}

// startBadger starts one relay on Badger.
func startBadger(ctx context.Context, o options, c config) (*deployment, error) {
	s, err := startCaddy(ctx, o, c)
	if err != nil {
		return nil, err
	}
	return (&deployment{relays: []*server{s}}).ready()
}

// startCluster starts three NATS servers and two relays.
func startCluster(ctx context.Context, o options, c config) (d *deployment, err error) {
	out, err := filepath.Abs(o.out)
	if err != nil {
		return nil, err
	}
	d = new(deployment)
	if d.dir, err = os.MkdirTemp(out, "nats-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			d.stop()
		}
	}()
	if d.servers, err = natsproc.Cluster(ctx, natsproc.Options{Dir: d.dir}, 3); err != nil {
		return d, err
	}
	const badger = "queue badger {\n path STORE\n }"
	if !strings.Contains(c.app, badger) {
		return d, errors.New("the configuration has another queue than the one to replace")
	}
	c.app = strings.Replace(c.app, badger, "queue jetstream {\n servers "+strings.Join(natsproc.URLs(d.servers), " ")+"\n }", 1)
	for range 2 {
		s, err := startCaddy(ctx, o, c)
		if err != nil {
			return d, err
		}
		d.relays = append(d.relays, s)
	}
	return d.ready()
}

func (d *deployment) ready() (_ *deployment, err error) {
	d.before, err = d.cpu()
	return d, err
}

// pids are the processes of the relays and of the servers.
func (d *deployment) pids() (relays, servers []int) {
	for _, s := range d.relays {
		relays = append(relays, s.process.PID())
	}
	for _, s := range d.servers {
		servers = append(servers, s.PID())
	}
	return relays, servers
}

func (d *deployment) cpu() (time.Duration, error) {
	relays, servers := d.pids()
	return cpuOf(append(relays, servers...))
}

func cpuOf(pids []int) (sum time.Duration, err error) {
	for _, pid := range pids {
		used, err := cpuTime(pid)
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

// cpuPer returns the CPU time per event of all processes, in microseconds.
func (d *deployment) cpuPer(events uint64) (float64, error) {
	used, err := d.cpu()
	return float64(used-d.before) / float64(time.Microsecond) / float64(events), err
}

func (d *deployment) stop() {
	var stopping sync.WaitGroup
	for _, s := range d.relays {
		stopping.Go(s.stop)
	}
	stopping.Wait()
	natsproc.End(d.servers)
	if d.dir != "" {
		if err := os.RemoveAll(d.dir); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	}
}

// submit spreads the load over the relays. Every response must be 2xx.
func (d *deployment) submit(ctx context.Context, o load.Options) (*load.Result, error) {
	n := len(d.relays)
	results, errs := make([]*load.Result, n), make([]error, n)
	body := o.Body
	var running sync.WaitGroup
	for i, s := range d.relays {
		part := o
		part.Address, part.Path = s.site, "/feedback"
		part.Connections, part.Requests, part.Rate = o.Connections/n, o.Requests/uint64(n), o.Rate/float64(n)
		part.Body = func(into []byte, k uint64) []byte { return body(into, k*uint64(n)+uint64(i)) }
		running.Go(func() { results[i], errs[i] = load.Run(ctx, part) })
	}
	running.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	sum := results[0]
	for _, r := range results[1:] {
		sum.Answered += r.Answered
		sum.Refused += r.Refused
		sum.Took = max(sum.Took, r.Took)
		sum.Latency = append(sum.Latency, r.Latency...)
	}
	if sum.Refused > 0 {
		return nil, fmt.Errorf("%d of %d submissions were refused", sum.Refused, sum.Refused+sum.Answered)
	}
	return sum, nil
}

// starter is startCluster or startBadger.
type starter func(context.Context, options, config) (*deployment, error)

// beside returns a scenario whose runs are made on the cluster and on Badger in turns.
func beside(s scenario, run func(context.Context, options, starter) (outcome, error)) scenario {
	for i := range s.rows {
		s.rows[i].against, s.rows[i].compare = "queue badger", ratio
	}
	s.relay = func(ctx context.Context, o options) (outcome, error) { return run(ctx, o, startCluster) }
	s.baseline = func(ctx context.Context, o options) (outcome, error) { return run(ctx, o, startBadger) }
	return s
}

func clusterAccepts(connections int) scenario {
	name := fmt.Sprintf("accepts, %d connections", connections)
	return beside(scenario{rows: []row{{name: name, unit: "requests/s"}, {name: "CPU time, " + name, unit: "µs"}}},
		func(ctx context.Context, o options, start starter) (outcome, error) {
			d, err := start(ctx, o, relayConfig(nil))
			if err != nil {
				return outcome{}, err
			}
			defer d.stop()
			result, err := d.submit(ctx, load.Options{Body: submission, Connections: connections, Duration: o.duration})
			if err != nil {
				return outcome{}, err
			}
			cost, err := d.cpuPer(result.Answered)
			return outcome{figures: []float64{result.PerSecond(), cost}, note: quantiles(result.Latency)}, err
		})
}

func quantiles(took []time.Duration) string {
	slices.Sort(took)
	return fmt.Sprintf("p50 %s p99 %s", rounded(quantile(took, 0.5)), rounded(quantile(took, 0.99)))
}

func clusterDeliveries(webhooks int) scenario {
	name := fmt.Sprintf("deliveries, %d webhooks", webhooks)
	return beside(scenario{rows: []row{{name: name, unit: "deliveries/s"}, {name: "CPU time, " + name, unit: "µs"}}},
		func(ctx context.Context, o options, start starter) (outcome, error) {
			seen := newSeen()
			k, err := sink.Start(ctx, seen.deliver)
			if err != nil {
				return outcome{}, err
			}
			defer k.Close()
			d, err := start(ctx, o, relayConfig(k.URLs(webhooks)))
			if err != nil {
				return outcome{}, err
			}
			defer d.stop()
			result, err := d.submit(ctx, load.Options{Body: submission, Connections: 64, Duration: o.duration})
			if err != nil {
				return outcome{}, err
			}
			accepted := result.Answered * uint64(webhooks)
			if err := k.Await(ctx, accepted, 3*time.Minute); err != nil {
				return outcome{}, err
			}
			took := k.Last().Sub(result.Began)
			cost, err := d.cpuPer(accepted)
			return outcome{
				figures: []float64{float64(accepted) / took.Seconds(), cost},
				note:    fmt.Sprintf("accepted %.0f/s, %d deliveries came twice", result.PerSecond(), k.Count()-uint64(seen.count())),
			}, err
		})
}

func clusterLatency(rate float64) scenario {
	name := fmt.Sprintf("submit to delivered at %.0f/s, ", rate)
	return beside(scenario{rows: []row{{name: name + "p50", unit: "ms"}, {name: name + "p99", unit: "ms"}}},
		func(ctx context.Context, o options, start starter) (outcome, error) {
			took, err := arriving(ctx, o, start, toSink, rate)
			return outcome{figures: []float64{milliseconds(quantile(took, 0.5)), milliseconds(quantile(took, 0.99))}}, err
		})
}

// clusterTakeover kills one of two relays. It measures when every webhook is delivered to
// again, all by the other one.
func clusterTakeover(webhooks int) scenario {
	return scenario{
		rows: []row{{name: "all webhooks delivered to after a relay's kill", unit: "s", most: 15}},
		relay: func(ctx context.Context, o options) (outcome, error) {
			var mu sync.Mutex
			latest := map[string]time.Time{} // by the webhook's number, which ends the delivery's id
			k, err := sink.Start(ctx, func(delivery string, _ []byte, at time.Time) {
				mu.Lock()
				defer mu.Unlock()
				latest[delivery[strings.LastIndexByte(delivery, '_')+1:]] = at
			})
			if err != nil {
				return outcome{}, err
			}
			defer k.Close()
			d, err := startCluster(ctx, o, relayConfig(k.URLs(webhooks)))
			if err != nil {
				return outcome{}, err
			}
			defer d.stop()
			all := func(after time.Time) (n int) {
				mu.Lock()
				defer mu.Unlock()
				for _, at := range latest {
					if at.After(after) {
						n++
					}
				}
				return n
			}
			submitting, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			result := make(chan error, 1)
			go func() {
				_, err := load.Run(submitting, load.Options{
					Address: d.relays[1].site, Path: "/feedback", Body: submission, Connections: 4, Duration: time.Minute, Rate: 100,
				})
				result <- err
			}()
			until := func(done func() bool) error {
				for !done() {
					select {
					case <-time.After(5 * time.Millisecond):
					case err := <-result:
						return errors.Join(errors.New("not every webhook was delivered to within a minute"), err)
					}
				}
				return nil
			}
			// After a few seconds the lanes are spread over both relays.
			spread := time.Now().Add(6 * time.Second)
			if err := until(func() bool { return time.Now().After(spread) && all(spread) == webhooks }); err != nil {
				return outcome{}, err
			}
			killed := time.Now()
			d.relays[0].process.Kill()
			if err := until(func() bool { return all(killed.Add(100*time.Millisecond)) == webhooks }); err != nil {
				return outcome{}, err
			}
			took := time.Since(killed)
			cancel()
			_ = <-result // it was ended here
			d.relays[0].remove()
			d.relays = d.relays[1:]
			return outcome{figures: []float64{took.Seconds()}}, nil
		},
	}
}

// clusterWaiting measures what each process uses while n deliveries wait on a rung.
func clusterWaiting(n uint64, long bool) scenario {
	const idle = 10 * time.Second
	waiting := fmt.Sprintf("%d waiting, ", n)
	s := beside(scenario{once: true, rows: []row{
		{name: waiting + "RssAnon of a relay", unit: "MiB"},
		{name: waiting + "CPU of a relay", unit: "% of a core"},
		{name: waiting + "RssAnon of a NATS server", unit: "MiB"},
		{name: waiting + "CPU of a NATS server", unit: "% of a core"},
	}}, func(ctx context.Context, o options, start starter) (outcome, error) {
		c, _, err := awayConfig(ctx, "5h")
		if err != nil {
			return outcome{}, err
		}
		d, err := start(ctx, o, c)
		if err != nil {
			return outcome{}, err
		}
		defer d.stop()
		if _, err := d.submit(ctx, load.Options{Body: submission, Connections: 64, Requests: n, Duration: time.Hour}); err != nil {
			return outcome{}, err
		}
		var figures []float64
		relays, servers := d.pids()
		for _, pids := range [][]int{relays, servers} {
			resident, load, err := idleUse(ctx, pids, idle)
			if err != nil {
				return outcome{}, err
			}
			figures = append(figures, resident, load)
		}
		return outcome{figures: figures}, nil
	})
	s.long = long
	s.rows[2].compare, s.rows[3].compare = alone, alone // Badger has no servers
	s.rows[2].against, s.rows[3].against = "", ""
	return s
}

// idleUse returns the mean anonymous memory of processes in MiB, and their mean CPU in
// per cent of a core.
func idleUse(ctx context.Context, pids []int, within time.Duration) (resident, load float64, err error) {
	if len(pids) == 0 {
		return 0, 0, nil
	}
	before, err := cpuOf(pids)
	if err != nil {
		return 0, 0, err
	}
	select {
	case <-time.After(within):
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	}
	after, err := cpuOf(pids)
	if err != nil {
		return 0, 0, err
	}
	for _, pid := range pids {
		anonymous, _, err := memory(pid)
		if err != nil {
			return 0, 0, err
		}
		resident += anonymous
	}
	n := float64(len(pids))
	return resident / n, 100 * float64(after-before) / float64(within) / n, nil
}
