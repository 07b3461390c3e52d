package main

import (
	"context"
	"fmt"
	"time"

	"github.com/userhero/relay/bench/load"
	"github.com/userhero/relay/bench/sink"
)

// outage is a relay whose only receiver is down while events come in.
type outage struct {
	*server
	address string // where the receiver will listen
}

// awayWith starts a relay, submits n events, and returns when they all wait. retry is
// the ladder in the configuration.
func awayWith(ctx context.Context, o options, n uint64, retry string) (*outage, error) {
	c, address, err := awayConfig(ctx, retry)
	if err != nil {
		return nil, err
	}
	away := &outage{address: address}
	if away.server, err = startCaddy(ctx, o, c); err != nil {
		return nil, err
	}
	result, err := load.Run(ctx, load.Options{
		Address: away.site, Path: "/feedback", Body: submission, Connections: 64, Requests: n, Duration: 2 * time.Minute,
	})
	if err == nil && result.Answered != n {
		err = fmt.Errorf("%d of %d events were taken", result.Answered, n)
	}
	if err != nil {
		away.stop()
		return nil, err
	}
	return away, nil
}

// awayConfig returns a relay with one webhook whose receiver is down: the address of a
// closed sink refuses connections until a new sink listens there.
func awayConfig(ctx context.Context, retry string) (c config, address string, err error) {
	k, err := sink.Start(ctx, nil)
	if err != nil {
		return c, "", err
	}
	address = k.Address()
	k.Close()
	return relayConfig([]string{"http://" + address + "/hook"}).with("retry " + retry), address, nil
}

// drain measures how long the waiting events take from the first delivery to the last,
// and how many connections are open at once: the webhook's bound also applies if
// everything is due.
func drain(events uint64) scenario {
	name := fmt.Sprintf("drain of %d after an outage", events)
	return scenario{
		rows: []row{
			{name: name, unit: "s", most: 2},
			{name: name + ", connections", unit: "at once", most: 64},
		},
		relay: func(ctx context.Context, o options) (outcome, error) {
			away, err := awayWith(ctx, o, events, "500ms 500ms 500ms 500ms 500ms 500ms 500ms 500ms 500ms 500ms")
			if err != nil {
				return outcome{}, err
			}
			defer away.stop()
			back := time.Now()
			k, err := sink.StartAt(ctx, away.address, nil)
			if err != nil {
				return outcome{}, err
			}
			defer k.Close()
			if err := k.Await(ctx, events, 2*time.Minute); err != nil {
				return outcome{}, err
			}
			return outcome{
				figures: []float64{k.Last().Sub(k.First()).Seconds(), float64(k.Most())},
				note:    fmt.Sprintf("the receiver was found %s after it was back", k.First().Sub(back).Round(time.Millisecond)),
			}, nil
		},
	}
}

// starve submits as fast as possible while a backlog drains. It measures how much waits
// afterwards, relative to what waited before: neither deliveries nor submissions may
// starve.
func starve(backlog uint64) scenario {
	return scenario{
		once: true,
		rows: []row{{name: fmt.Sprintf("most waiting, intake over a backlog of %d", backlog), unit: "of the backlog", most: 1.1}},
		relay: func(ctx context.Context, o options) (outcome, error) {
			away, err := awayWith(ctx, o, backlog, "500ms 500ms 500ms 500ms 500ms 500ms 500ms 500ms 500ms 500ms")
			if err != nil {
				return outcome{}, err
			}
			defer away.stop()
			k, err := sink.StartAt(ctx, away.address, nil)
			if err != nil {
				return outcome{}, err
			}
			defer k.Close()
			if err := k.Await(ctx, 1, 10*time.Minute); err != nil {
				return outcome{}, err
			}
			accepted, most, refused := backlog, uint64(0), uint64(0)
			before := k.Count()
			began := time.Now()
			for range 10 { // checked between runs of the load
				piece := o
				piece.duration = o.duration / 2
				result, err := load.Run(ctx, load.Options{
					Address: away.site, Path: "/feedback", Body: submission, Connections: 64, Duration: piece.duration,
				})
				if err != nil {
					return outcome{}, err
				}
				accepted, refused = accepted+result.Answered, refused+result.Refused
				most = max(most, accepted-min(accepted, k.Count()))
			}
			took := time.Since(began).Seconds()
			note := fmt.Sprintf("accepted %.0f/s, refused %.0f/s, delivered %.0f/s",
				float64(accepted-backlog)/took, float64(refused)/took, float64(k.Count()-before)/took)
			if err := k.Await(ctx, accepted, 10*time.Minute); err != nil {
				return outcome{}, err
			}
			return outcome{figures: []float64{float64(most) / float64(backlog)}, note: note}, nil
		},
	}
}

// idle measures the CPU time of a relay with deliveries that wait for hours, none of
// them due, against a Caddy without the relay.
func idle(waiting uint64) scenario {
	const quiet = 5 * time.Second
	measure := func(s *server) (outcome, error) {
		before, err := cpuTime(s.process.PID())
		if err != nil {
			return outcome{}, err
		}
		<-time.After(quiet)
		after, err := cpuTime(s.process.PID())
		return outcome{figures: []float64{milliseconds(after-before) / quiet.Seconds()}}, err
	}
	return scenario{
		once: true,
		rows: []row{{
			name: fmt.Sprintf("CPU while %d wait for hours", waiting), unit: "ms/s",
			// Badger's two compactors each check for work twenty times a second. No
			// timer belongs to a delivery.
			against: "idle Caddy", compare: above, most: 10,
		}},
		relay: func(ctx context.Context, o options) (outcome, error) {
			away, err := awayWith(ctx, o, waiting, "4h")
			if err != nil {
				return outcome{}, err
			}
			defer away.stop()
			<-time.After(quiet) // wait for work that the load left behind
			return measure(away.server)
		},
		baseline: func(ctx context.Context, o options) (outcome, error) {
			s, err := startCaddy(ctx, o, plainConfig("respond 202"))
			if err != nil {
				return outcome{}, err
			}
			defer s.stop()
			<-time.After(quiet)
			return measure(s)
		},
	}
}
