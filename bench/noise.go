package main

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"time"
)

// noise is what else the machine did during a run, as shares of all its cores, and how
// unevenly the disk synced before it.
type noise struct {
	Stolen  float64 `json:"stolen"`  // by other machines on the same hardware
	Foreign float64 `json:"foreign"` // by processes that are not the bench's
	// Sync is how many times the median the longest of the syncs took that were tried on
	// the idle disk before the run.
	Sync float64 `json:"sync"`
}

// What a run may have of each, to be judged. A disk alone has syncs of 20 times the median
// now and then.
const (
	mostStolen  = 0.01
	mostForeign = 0.05
	mostSync    = 50
)

// loud returns what a verdict would be worthless for, or "".
func (n noise) loud() string {
	var why []string
	if n.Stolen > mostStolen {
		why = append(why, fmt.Sprintf("%.0f %% of the cores were stolen", 100*n.Stolen))
	}
	if n.Foreign > mostForeign {
		why = append(why, fmt.Sprintf("other processes took %.0f %% of the cores", 100*n.Foreign))
	}
	if n.Sync > mostSync {
		why = append(why, fmt.Sprintf("a sync on the idle disk took %.0f times the median", n.Sync))
	}
	return strings.Join(why, ", ")
}

// worst returns the larger of each of two.
func (n noise) worst(o noise) noise {
	return noise{max(n.Stolen, o.Stolen), max(n.Foreign, o.Foreign), max(n.Sync, o.Sync)}
}

// listen runs something and returns what else the machine did meanwhile.
func listen(ctx context.Context, o options, run func() error) (noise, error) {
	var n noise
	syncs, err := syncPages(ctx, o, 100*time.Millisecond, 0)
	if err != nil {
		return n, err
	}
	if median := quantile(syncs, 0.5); median > 0 {
		n.Sync = float64(quantile(syncs, 1)) / float64(median)
	}
	before, began := machineTimes(), time.Now()
	if err := run(); err != nil {
		return n, err
	}
	after := machineTimes()
	all := time.Since(began).Seconds() * float64(runtime.NumCPU())
	n.Stolen = (after.stolen - before.stolen).Seconds() / all
	n.Foreign = max(0, (after.busy-before.busy-(after.own-before.own)).Seconds()/all)
	return n, nil
}

// times are CPU times since the machine's start, and those of the bench and of the
// processes that it started and that have ended.
type times struct{ busy, stolen, own time.Duration }
