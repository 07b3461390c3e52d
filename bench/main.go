// Command bench compares the built Caddy with the same Caddy without the relay. Runs
// come in pairs, and each figure is the median of the ratios of several pairs, so a
// machine that is slow today is slow for both. It prints a table and writes JSON.
//
//	go run ./bench -caddy ./caddy
//
// With -cluster it compares two relays on three NATS servers with one relay on Badger.
//
// The load generator, the sink and Caddy share the machine.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"time"
)

func main() {
	var o options
	flag.StringVar(&o.caddy, "caddy", "./caddy", "the Caddy to measure, with this module in it")
	flag.StringVar(&o.out, "out", "bench/out", "where the JSON goes; stores are made there too, and removed")
	flag.IntVar(&o.pairs, "pairs", 5, "runs, or pairs of runs, per figure")
	flag.DurationVar(&o.duration, "duration", time.Minute, "how long each run submits; with less than 20s hardly any table is merged")
	o.only = new(regexp.Regexp)
	flag.TextVar(o.only, "only", regexp.MustCompile(""), "regular expression of the rows to measure")
	flag.BoolVar(&o.long, "long", false, "also what takes minutes and gigabytes, once each")
	flag.BoolVar(&o.cluster, "cluster", false, "compare two relays on three NATS servers with one relay on Badger")
	check := flag.Bool("check", false, "exit 1 if a target is missed on a machine that was quiet enough to judge it")
	flag.Float64Var(&o.margin, "margin", 0, "by how much of a target a figure may miss it, such as 0.2")
	profiling := flag.Bool("profile", false, "measure nothing, write profiles of one run")
	flag.BoolVar(&o.traced, "traced", false, "with -profile: the run exports every span")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	met, err := true, o.prepare()
	switch {
	case err != nil:
	case *profiling:
		err = profile(ctx, o)
	default:
		met, err = run(ctx, o)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	if *check && !met {
		os.Exit(1)
	}
}

// options are the values of the flags.
type options struct {
	caddy    string
	out      string
	pairs    int
	duration time.Duration
	only     *regexp.Regexp
	long     bool
	cluster  bool
	traced   bool
	margin   float64
}

// chosen reports whether the flags select any row of the scenario.
func (s scenario) chosen(o options) bool {
	return (o.long || !s.long) && slices.ContainsFunc(s.rows, func(r row) bool { return o.only.MatchString(r.name) })
}

// scenarios returns what the flags ask for.
func (o options) scenarios() []scenario {
	if o.cluster {
		return clusterScenarios()
	}
	return scenarios()
}

// prepare makes the paths in the flags usable.
func (o *options) prepare() (err error) {
	if o.caddy, err = filepath.Abs(o.caddy); err != nil {
		return err
	}
	if _, err := os.Stat(o.caddy); err != nil {
		return fmt.Errorf("no caddy to measure: %w; run `./xcaddy.sh build`", err)
	}
	return os.MkdirAll(o.out, 0o750)
}

// run measures every chosen scenario. It reports whether all targets that could be judged
// were met.
func run(ctx context.Context, o options) (met bool, err error) {
	r := newReport(o)
	r.printHead(os.Stdout, o.cluster)
	met = true
	bound, judged := 0, 0
	for _, s := range o.scenarios() {
		if !s.chosen(o) {
			continue
		}
		figures, err := s.measure(ctx, o)
		if err != nil {
			return false, fmt.Errorf("%s: %w", s.rows[0].name, err)
		}
		r.add(figures)
		for _, f := range figures {
			f.print(os.Stdout)
			met = met && !f.failed()
			if f.bound() {
				bound++
			}
			if f.bound() && f.Loud == "" {
				judged++
			}
		}
	}
	path, err := r.write(o.out)
	if err != nil {
		return false, err
	}
	fmt.Printf("\nwritten to %s\n", path)
	if judged < bound {
		fmt.Printf("%d of %d targets are not judged: the machine did other things too\n", bound-judged, bound)
	}
	return met, nil
}
