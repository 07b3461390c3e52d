package simulation

import (
	"flag"
	"fmt"
	"testing"
	"time"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "run this one seed")
	seedsFlag = flag.Uint64("seeds", 10, "run that many seeds, from 1 on")
	forFlag   = flag.Duration("for", 0, "run seeds that were never run before, for that long")
)

// steps is how long a life is; between two of them up to 30 hours pass.
func steps() int {
	if underRace {
		return 400
	}
	return 1500
}

// TestSimulation lives through seeds: ten in a plain run of the tests, more in make
// simulation, and ever new ones in make soak.
func TestSimulation(t *testing.T) {
	t.Parallel()
	first, last := uint64(1), *seedsFlag
	switch {
	case *forFlag > 0:
		first, last = uint64(time.Now().UnixMilli()), 1<<63
	case *seedFlag > 0:
		first, last = *seedFlag, *seedFlag
	case underRace:
		last = min(last, 4)
	}
	start := time.Now()
	for seed := first; seed <= last; seed++ {
		if *forFlag > 0 && time.Since(start) > *forFlag {
			t.Logf("%d seeds, from %d on", seed-first, first)
			return
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			if *forFlag == 0 {
				t.Parallel()
			}
			// Every fifth lives on a real store, for minutes instead of days: in each
			// second of any time, Badger looks forty times for something to compact.
			o := options{seed: seed, steps: steps(), engine: newInMemory, longest: 30 * time.Hour}
			if seed%5 == 0 {
				o.engine, o.steps, o.longest = newOnDisk, o.steps/3, time.Minute
			}
			wrong, report := simulate(t, o)
			if wrong != "" {
				t.Fatalf("%s\nagain: go test ./relay/simulation -run TestSimulation -seed %d", wrong, seed)
			}
			t.Log(report)
		})
	}
}
