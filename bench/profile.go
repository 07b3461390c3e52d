package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/userhero/relay/bench/sink"
)

// profile loads one relay with one webhook and writes CPU and allocation profiles for
// `go tool pprof`: cpu.pprof and allocs.pprof. It prints how many commits, each one
// fsync, the store made per event, and the CPU time of each part of the work.
//
// Blocking is in the profiles of the Go benchmark that `make profile` also runs:
// Caddy's endpoint records no blocking.
func profile(ctx context.Context, o options) (err error) {
	const connections = 64
	k, err := sink.Start(ctx, nil)
	if err != nil {
		return err
	}
	defer k.Close()
	config := relayConfig(k.URLs(1))
	if o.traced {
		c, err := startCollector(ctx)
		if err != nil {
			return err
		}
		defer c.stop()
		config.env = c.environment()
	}
	s, err := startCaddy(ctx, o, config)
	if err != nil {
		return err
	}
	defer s.stop()
	before, err := cpuTime(s.process.PID())
	if err != nil {
		return err
	}
	recorded := make(chan error, 1)
	go func() {
		recorded <- s.save(ctx, fmt.Sprintf("/debug/pprof/profile?seconds=%d", max(1, int(o.duration.Seconds()))), filepath.Join(o.out, "cpu.pprof"))
	}()
	result, err := submitAll(ctx, o, s.site, delivering{connections: connections})
	if err != nil {
		return errors.Join(err, <-recorded)
	}
	if err := errors.Join(k.Await(ctx, result.Answered, time.Minute), <-recorded); err != nil {
		return err
	}
	after, err := cpuTime(s.process.PID())
	if err != nil {
		return err
	}
	if err := s.save(ctx, "/debug/pprof/allocs", filepath.Join(o.out, "allocs.pprof")); err != nil {
		return err
	}
	commits, err := s.counter(ctx, "userhero_queue_commit_duration_seconds_count")
	if err != nil {
		return err
	}
	events := float64(result.Answered)
	each := float64((after-before)/time.Microsecond) / events
	fmt.Printf("%.0f events in %s: %.0f µs of CPU and %.3f fsyncs per event; profiles in %s\n",
		events, result.Took.Round(time.Millisecond), each, commits/events, o.out)
	return printParts(ctx, os.Stdout, filepath.Join(o.out, "cpu.pprof"), each)
}

// save writes the response of an admin path to a file.
func (s *server) save(ctx context.Context, path, file string) error {
	body, err := s.get(ctx, path)
	if err != nil {
		return err
	}
	return os.WriteFile(file, body, 0o600)
}

// get returns the response of an admin path.
func (s *server) get(ctx context.Context, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.admin+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s", path, response.Status)
	}
	return body, err
}

// counter returns the value of a metric without labels.
func (s *server) counter(ctx context.Context, name string) (float64, error) {
	text, err := s.get(ctx, "/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			var v float64
			_, err := fmt.Sscan(rest, &v)
			return v, err
		}
	}
	return 0, fmt.Errorf("no metric %s", name)
}
