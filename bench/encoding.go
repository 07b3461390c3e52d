package main

import (
	"context"
	"fmt"
	"time"

	"github.com/userhero/relay/event"
)

// encoding measures how fast submissions are converted to event documents.
func encoding() scenario {
	return scenario{
		rows: []row{{name: "canonical encoding", unit: "MB/s", least: 200}},
		relay: func(context.Context, options) (outcome, error) {
			text := submission(nil, 1)
			var done int
			began := time.Now()
			for time.Since(began) < 200*time.Millisecond {
				for range 100 {
					out, err := event.Canonical(text)
					if err != nil {
						return outcome{}, fmt.Errorf("the submission: %w", err)
					}
					done += len(out)
				}
			}
			return outcome{figures: []float64{float64(done) / 1e6 / time.Since(began).Seconds()}}, nil
		},
	}
}
