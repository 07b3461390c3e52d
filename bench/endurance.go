package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/userhero/relay/bench/load"
	"github.com/userhero/relay/bench/sink"
)

// endurance submits at a share of what the relay delivers under sustained load, 30 times as
// long as other runs, and lets events expire as fast as they come. It compares the last
// sixth with the first, and the size of the store's files at the end with that in the middle.
func endurance(share float64) scenario {
	const (
		pieces = 6
		each   = 5  // times the duration of other runs
		kept   = 10 // the same
	)
	name := fmt.Sprintf("30 minutes at %.0f %%, ", 100*share)
	return scenario{
		long: true,
		rows: []row{
			{name: name + "p99 of accepts, the last 5", unit: "of the first 5", most: 1.2},
			{name: name + "disk at the end", unit: "of the middle", most: 1.2},
			{name: name + "written to the disk", unit: "× 1 KiB", most: 3.5},
			{name: name + "waiting at the end", unit: "s of intake", most: 2},
		},
		relay: func(ctx context.Context, o options) (outcome, error) {
			most, err := deliverAll(ctx, o, delivering{webhooks: 1, connections: 64})
			if err != nil {
				return outcome{}, err
			}
			rate := share * most.figures[0]
			k, err := sink.Start(ctx, nil)
			if err != nil {
				return outcome{}, err
			}
			defer k.Close()
			s, err := startCaddy(ctx, o, relayConfig(k.URLs(1)).with("retention "+(kept*o.duration).String()))
			if err != nil {
				return outcome{}, err
			}
			defer s.stop()
			var p99, disk [pieces]float64
			var accepted uint64
			for i := range pieces {
				result, err := load.Run(ctx, load.Options{
					Address: s.site, Path: "/feedback", Body: submission, Connections: 64, Duration: each * o.duration, Rate: rate,
				})
				if err == nil && result.Refused > 0 {
					err = fmt.Errorf("%d submissions were refused", result.Refused)
				}
				if err != nil {
					return outcome{}, err
				}
				accepted += result.Answered
				p99[i] = milliseconds(quantile(result.Latency, 0.99))
				if disk[i], err = s.counter(ctx, "userhero_queue_disk_bytes"); err != nil {
					return outcome{}, err
				}
			}
			behind := accepted - min(accepted, k.Count())
			written, err := diskWrites(s.process.PID())
			if err = errors.Join(err, k.Await(ctx, accepted, time.Minute)); err != nil {
				return outcome{}, err
			}
			return outcome{
				figures: []float64{
					p99[pieces-1] / p99[0],
					max(disk[pieces-2], disk[pieces-1]) / max(disk[pieces/2-1], disk[pieces/2]),
					float64(written) / 1024 / float64(accepted),
					float64(behind) / rate,
				},
				note: fmt.Sprintf("%.0f/s, p99 %.3g and %.3g ms, %.0f MB at the end", rate, p99[0], p99[pieces-1], disk[pieces-1]/1e6),
			}, nil
		},
	}
}
