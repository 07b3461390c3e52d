package main

import (
	"context"
	"fmt"
)

// wide measures deliveries of events that many webhooks take, accepted at a rate.
func wide(webhooks int, rate float64) scenario {
	name := fmt.Sprintf("deliveries, %d webhooks", webhooks)
	return scenario{
		rows: []row{
			{name: "CPU time, " + name, unit: "µs", most: 40},
			{name: name + fmt.Sprintf(", %.0f events/s", rate), unit: "deliveries/s"},
		},
		relay: func(ctx context.Context, o options) (outcome, error) {
			o.duration /= 4
			result, err := deliverAll(ctx, o, delivering{webhooks: webhooks, connections: 8, rate: rate})
			if err != nil {
				return outcome{}, err
			}
			return outcome{figures: []float64{result.figures[1], result.figures[0]}, note: result.note}, nil
		},
	}
}
