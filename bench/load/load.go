// Package load submits HTTP requests as fast as a server answers (closed loop)
// or at a fixed rate (open loop), and counts and times the answers.
//
// It speaks just enough HTTP/1.1 for that: one request at a time on each of a
// number of connections that stay open, answers with a Content-Length. A
// general client would cost as much as the server under test, which shares the
// machine with it.
package load

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/userhero/relay/bench/histogram"
)

// Options say what to send.
type Options struct {
	// Address is the server's host:port.
	Address string
	// Path is the request's target.
	Path string
	// Body makes the nth request's body, n counting from 0 over all
	// connections. It may reuse what it appends to.
	Body func(into []byte, n uint64) []byte
	// Connections is how many requests are in flight at most.
	Connections int
	// Duration is how long new requests are begun.
	Duration time.Duration
	// Requests is how many are sent at most; 0 is no bound.
	Requests uint64
	// Rate is requests per second over all connections; 0 is the closed loop:
	// each connection sends its next request when it has the answer.
	Rate float64
}

// Result is what came back.
type Result struct {
	Answered uint64        // with 2xx
	Refused  uint64        // with another status
	Began    time.Time     // of the first request
	Took     time.Duration // until the last answer
	// Latency is from sending a request until its answer was read; in the open
	// loop, from when it was due to be sent, so that a stall counts for all the
	// requests it delayed.
	Latency histogram.Histogram
}

// PerSecond is answers per second.
func (r *Result) PerSecond() float64 { return float64(r.Answered) / r.Took.Seconds() }

// Run sends until the duration is over, and returns when every answer is in.
// A broken connection ends the run with an error.
func Run(ctx context.Context, o Options) (*Result, error) {
	connections := make([]*connection, o.Connections)
	for i := range connections {
		c, err := dial(ctx, o)
		if err != nil {
			return nil, err
		}
		defer func() { _ = c.conn.Close() }()
		connections[i] = c
	}
	ctx, cancel := context.WithTimeout(ctx, o.Duration)
	defer cancel()
	began := time.Now()
	due := schedule(o, began)
	errs := make([]error, o.Connections)
	var running sync.WaitGroup
	for i, c := range connections {
		running.Go(func() { errs[i] = c.run(ctx, due) })
	}
	running.Wait()
	result := &Result{Began: began, Took: time.Since(began)}
	for _, c := range connections {
		result.Answered += c.answered
		result.Refused += c.refused
		result.Latency.Add(&c.latency)
	}
	return result, errors.Join(errs...)
}

// schedule returns a function that gives each request its number and the time
// it is due; in the closed loop that is now.
func schedule(o Options, began time.Time) func() (uint64, time.Time) {
	var next atomic.Uint64
	if o.Rate == 0 {
		return func() (uint64, time.Time) { return next.Add(1) - 1, time.Now() }
	}
	interval := float64(time.Second) / o.Rate
	return func() (uint64, time.Time) {
		n := next.Add(1) - 1
		return n, began.Add(time.Duration(float64(n) * interval))
	}
}

// connection is one client with its own counts.
type connection struct {
	options  Options
	conn     net.Conn
	answers  *bufio.Reader
	request  []byte
	body     []byte
	answered uint64
	refused  uint64
	latency  histogram.Histogram
}

func dial(ctx context.Context, o Options) (*connection, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", o.Address)
	if err != nil {
		return nil, fmt.Errorf("connecting to the server under test: %w", err)
	}
	return &connection{options: o, conn: conn, answers: bufio.NewReader(conn)}, nil
}

func (c *connection) run(ctx context.Context, next func() (uint64, time.Time)) error {
	for {
		n, due := next()
		if c.options.Requests > 0 && n >= c.options.Requests || !waitUntil(ctx, due) {
			return nil
		}
		status, err := c.exchange(n)
		if err != nil {
			return fmt.Errorf("request %d: %w", n, err)
		}
		c.latency.Record(time.Since(due))
		if status/100 == 2 {
			c.answered++
		} else {
			c.refused++
		}
	}
}

// waitUntil tells whether the time came before the context's end.
func waitUntil(ctx context.Context, due time.Time) bool {
	wait := time.Until(due)
	if wait <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (c *connection) exchange(n uint64) (status int, err error) {
	c.body = c.options.Body(c.body[:0], n)
	r := append(c.request[:0], "POST "...)
	r = append(r, c.options.Path...)
	r = append(r, " HTTP/1.1\r\nHost: "...)
	r = append(r, c.options.Address...)
	r = append(r, "\r\nContent-Type: application/json\r\nContent-Length: "...)
	r = strconv.AppendInt(r, int64(len(c.body)), 10)
	r = append(r, "\r\n\r\n"...)
	r = append(r, c.body...)
	c.request = r
	if _, err := c.conn.Write(r); err != nil {
		return 0, err
	}
	return readAnswer(c.answers)
}

// readAnswer reads one answer and returns its status.
func readAnswer(r *bufio.Reader) (int, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if len(line) < len("HTTP/1.1 200") {
		return 0, fmt.Errorf("no HTTP answer: %q", line)
	}
	status, err := strconv.Atoi(string(line[9:12]))
	if err != nil {
		return 0, fmt.Errorf("no HTTP answer: %q", line)
	}
	length := 0
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		if len(line) <= 2 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, fmt.Errorf("content length of the answer: %w", err)
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			return 0, errors.New("the answer is chunked, which this client does not read")
		}
	}
	if _, err := io.CopyN(io.Discard, r, int64(length)); err != nil {
		return 0, err
	}
	return status, nil
}
