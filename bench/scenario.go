package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/userhero/relay/bench/load"
)

// scenario is one way of using the relay, with its rows in the table. Each has its own
// file.
type scenario struct {
	rows []row
	// once: the runs are too long, or vary too little, to repeat them.
	once bool
	// long scenarios take minutes and gigabytes. They run once, and only with -long.
	long bool
	// relay and baseline each do one run with new processes. Without a baseline, all
	// rows of the scenario stand alone.
	relay, baseline func(ctx context.Context, o options) (outcome, error)
}

// scenarios returns all scenarios, in the order of the table.
func scenarios() []scenario {
	return []scenario{
		disk(),
		accepts(64, false),
		accepts(64, true),
		accepts(256, false),
		throughput(1, 64, false),
		throughput(1, 64, true),
		throughput(1, 256, false),
		throughput(5, 64, false),
		wide(1000, 8),
		tracing(),
		latency(200),
		drain(20_000),
		starve(100_000),
		endurance(0.7),
		idle(20_000),
		backlog(100_000, 1_000_000, 10_000_000),
		encoding(),
	}
}

// outcome is the result of one run: a figure for each row, in order, and a remark.
type outcome struct {
	figures []float64
	note    string
}

// row is one line of the table.
type row struct {
	name, unit string
	// against names the baseline, and compare says how to use its figure.
	against string
	compare comparison
	// least and most bound the result of compare; 0 means no bound.
	least, most float64
	// smoke is the lower bound for one short run on a busy machine: below it something
	// is broken, not just slow. 0 leaves the row out of that run.
	smoke float64
}

// comparison is how the relay's figure and the baseline's are combined.
type comparison uint8

const (
	alone comparison = iota // the relay's figure alone
	ratio                   // relay / baseline
	above                   // relay - baseline
)

func (c comparison) of(relay, baseline float64) float64 {
	switch c {
	case ratio:
		return relay / baseline
	case above:
		return relay - baseline
	}
	return relay
}

// met reports whether a result is within the row's bounds.
func (r row) met(result float64) bool {
	return (r.least == 0 || result >= r.least) && (r.most == 0 || result <= r.most)
}

// figure is one measured row.
type figure struct {
	Row     string `json:"row"`
	Unit    string `json:"unit"`
	Against string `json:"against,omitempty"`
	// Result is the median over the runs of the ratio, of the difference or of the
	// relay's figure alone.
	Result float64 `json:"result"`
	Least  float64 `json:"least,omitempty"`
	Most   float64 `json:"most,omitempty"`
	Met    bool    `json:"met"`
	// Spread is half the distance between the largest and the smallest result, as a share
	// of the median.
	Spread   float64   `json:"spread"`
	Relay    []float64 `json:"relay"`
	Baseline []float64 `json:"baseline,omitempty"`
	Notes    []string  `json:"notes,omitempty"`
	// Noise is the most that disturbed any of the runs. If Loud is not empty, it says why
	// the figure cannot be judged.
	Noise noise  `json:"noise"`
	Loud  string `json:"loud,omitempty"`
}

// newFigure judges the results of a row's runs. margin is by how much of its bound a figure
// may miss it.
func newFigure(r row, results []float64, notes []string, n noise, margin float64) figure {
	f := figure{
		Row: r.name, Unit: r.unit, Against: r.against, Least: r.least, Most: r.most, Result: median(results), Notes: notes, Noise: n, Loud: n.loud(),
	}
	if len(results) > 1 && f.Result != 0 {
		f.Spread = (slices.Max(results) - slices.Min(results)) / 2 / f.Result
	}
	r.least, r.most = r.least*(1-margin), r.most*(1+margin)
	f.Met = r.met(f.Result)
	return f
}

// bound reports whether the row has a target.
func (f figure) bound() bool { return f.Least != 0 || f.Most != 0 }

// failed reports whether the figure misses its target, and can be judged.
func (f figure) failed() bool { return f.bound() && !f.Met && f.Loud == "" }

// measure does the runs. Relay and baseline take turns.
func (s scenario) measure(ctx context.Context, o options) ([]figure, error) {
	figures := make([]figure, len(s.rows))
	results := make([][]float64, len(s.rows))
	var worst noise
	var notes []string
	runs := o.pairs
	if s.long || s.once {
		runs = 1
	}
	for range runs {
		var relay outcome
		baseline := outcome{figures: make([]float64, len(s.rows))}
		n, err := listen(ctx, o, func() (err error) {
			if relay, err = s.relay(ctx, o); err != nil {
				return fmt.Errorf("the relay: %w", err)
			}
			if s.baseline == nil {
				return nil
			}
			if baseline, err = s.baseline(ctx, o); err != nil {
				return fmt.Errorf("the baseline: %w", err)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		worst = worst.worst(n)
		if relay.note != "" {
			notes = append(notes, relay.note)
		}
		for i, r := range s.rows {
			f := &figures[i]
			f.Relay = append(f.Relay, relay.figures[i])
			if r.compare != alone {
				f.Baseline = append(f.Baseline, baseline.figures[i])
			}
			results[i] = append(results[i], r.compare.of(relay.figures[i], baseline.figures[i]))
		}
	}
	for i, r := range s.rows {
		relay, baseline := figures[i].Relay, figures[i].Baseline
		figures[i] = newFigure(r, results[i], notes, worst, o.margin)
		figures[i].Relay, figures[i].Baseline = relay, baseline
		notes = nil // the first row has them
	}
	return figures, nil
}

func median(of []float64) float64 {
	sorted := slices.Sorted(slices.Values(of))
	if len(sorted) == 0 {
		return 0
	}
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// submitAll is the sustained load: every connection submits again as soon as it gets a
// response, or at a rate, and every response must be 2xx.
func submitAll(ctx context.Context, o options, site string, d delivering) (*load.Result, error) {
	what := load.Options{Address: site, Path: "/feedback", Body: submission, Connections: d.connections, Duration: o.duration, Rate: d.rate}
	if d.bare {
		what.Body, what.Fields = bareSubmission, bareFields
	}
	result, err := load.Run(ctx, what)
	if err != nil {
		return nil, err
	}
	if result.Refused > 0 {
		return nil, fmt.Errorf("%d of %d submissions were refused", result.Refused, result.Refused+result.Answered)
	}
	return result, nil
}

func rounded(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
