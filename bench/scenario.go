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
		accepts(64),
		accepts(256),
		throughput(1),
		throughput(5),
		lasting(accepts(64)),
		lasting(throughput(1)),
		tracing(),
		latency(200),
		drain(20_000),
		starve(100_000),
		idle(20_000),
		backlog(100_000, 1_000_000, 10_000_000),
		encoding(),
	}
}

// lasting returns the scenario with ten times its load. The store then also merges its
// tables, so an event's cost includes that.
func lasting(s scenario) scenario {
	longer := func(run func(context.Context, options) (outcome, error)) func(context.Context, options) (outcome, error) {
		return func(ctx context.Context, o options) (outcome, error) {
			o.duration *= 10
			return run(ctx, o)
		}
	}
	rows := slices.Clone(s.rows)
	for i := range rows {
		rows[i].name += ", ten times as long"
		rows[i].smoke = 0
	}
	return scenario{rows: rows, once: true, relay: longer(s.relay), baseline: longer(s.baseline)}
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
	Result   float64   `json:"result"`
	Least    float64   `json:"least,omitempty"`
	Most     float64   `json:"most,omitempty"`
	Met      bool      `json:"met"`
	Relay    []float64 `json:"relay"`
	Baseline []float64 `json:"baseline,omitempty"`
	Notes    []string  `json:"notes,omitempty"`
}

// measure does the runs. Relay and baseline take turns.
func (s scenario) measure(ctx context.Context, o options) ([]figure, error) {
	figures := make([]figure, len(s.rows))
	results := make([][]float64, len(s.rows))
	runs := o.pairs
	if s.long || s.once {
		runs = 1
	}
	for range runs {
		relay, err := s.relay(ctx, o)
		if err != nil {
			return nil, fmt.Errorf("the relay: %w", err)
		}
		baseline := outcome{figures: make([]float64, len(s.rows))}
		if s.baseline != nil {
			if baseline, err = s.baseline(ctx, o); err != nil {
				return nil, fmt.Errorf("the baseline: %w", err)
			}
		}
		for i, r := range s.rows {
			f := &figures[i]
			f.Relay = append(f.Relay, relay.figures[i])
			if r.compare != alone {
				f.Baseline = append(f.Baseline, baseline.figures[i])
			}
			results[i] = append(results[i], r.compare.of(relay.figures[i], baseline.figures[i]))
			if relay.note != "" && i == 0 {
				f.Notes = append(f.Notes, relay.note)
			}
		}
	}
	for i, r := range s.rows {
		f := &figures[i]
		f.Row, f.Unit, f.Against, f.Least, f.Most = r.name, r.unit, r.against, r.least, r.most
		f.Result = median(results[i])
		f.Met = r.met(f.Result)
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
// response, and every response must be 2xx.
func submitAll(ctx context.Context, o options, site string, connections int) (*load.Result, error) {
	result, err := load.Run(ctx, load.Options{
		Address: site, Path: "/feedback", Body: submission,
		Connections: connections, Duration: o.duration,
	})
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
