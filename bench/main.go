// Command bench measures the built Caddy against what the same Caddy does
// without the relay, in one run and in pairs: each figure is the median of the
// ratios of several pairs, so that a machine that is slow today is slow for
// both. It prints a table and writes JSON.
//
//	go run ./bench -caddy ./caddy
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
	"time"
)

func main() {
	var o options
	flag.StringVar(&o.caddy, "caddy", "./caddy", "the Caddy to measure, with this module in it")
	flag.StringVar(&o.out, "out", "bench/out", "where the JSON goes; stores are made there too, and removed")
	flag.IntVar(&o.pairs, "pairs", 5, "pairs of runs per figure")
	flag.DurationVar(&o.duration, "duration", 2*time.Second, "how long each run submits")
	o.only = new(regexp.Regexp)
	flag.TextVar(o.only, "only", regexp.MustCompile(""), "regular expression of the scenarios to run")
	check := flag.Bool("check", false, "exit 1 when a target is missed")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	met, err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	if *check && !met {
		os.Exit(1)
	}
}

// options are what the flags say.
type options struct {
	caddy    string
	out      string
	pairs    int
	duration time.Duration
	only     *regexp.Regexp
}

// run measures every chosen scenario, and tells whether all targets were met.
func run(ctx context.Context, o options) (met bool, err error) {
	if o.caddy, err = filepath.Abs(o.caddy); err != nil {
		return false, err
	}
	if _, err := os.Stat(o.caddy); err != nil {
		return false, fmt.Errorf("no caddy to measure: %w; run `./xcaddy.sh build`", err)
	}
	if err := os.MkdirAll(o.out, 0o750); err != nil {
		return false, err
	}
	r := newReport(o)
	r.printHead(os.Stdout)
	met = true
	for _, s := range scenarios {
		if !o.only.MatchString(s.name) {
			continue
		}
		f, err := s.measure(ctx, o)
		if err != nil {
			return false, fmt.Errorf("%s: %w", s.name, err)
		}
		r.add(f)
		f.print(os.Stdout)
		met = met && f.Met
	}
	path, err := r.write(o.out)
	if err != nil {
		return false, err
	}
	fmt.Printf("\nwritten to %s\n", path)
	return met, nil
}
