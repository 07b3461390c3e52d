// Package load submits HTTP requests as fast as a server responds (closed loop) or at a
// fixed rate (open loop). It counts and times the responses.
//
// It supports only the HTTP/1.1 it needs: one request at a time on each connection,
// connections that stay open, and responses with a Content-Length. A general client
// would cost as much as the server under test, which runs on the same machine.
package load

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Options define the load.
type Options struct {
	// Address is the server's host:port.
	Address string
	// Path is the request's target.
	Path string
	// Fields are further header fields, each with its line end.
	Fields string
	// Body returns the body of request n, appended to into. n counts from 0 over all
	// connections.
	Body func(into []byte, n uint64) []byte
	// Connections is the number of connections, and so of requests in flight.
	Connections int
	// Duration is how long new requests are started.
	Duration time.Duration
	// Requests bounds the number of requests; 0 means no bound.
	Requests uint64
	// Rate is requests per second over all connections. 0 means the closed loop: each
	// connection sends its next request after it gets a response.
	Rate float64
}

// Result is the result of a run.
type Result struct {
	Answered uint64        // responses with 2xx
	Refused  uint64        // responses with another status
	Began    time.Time     // start of the first request
	Took     time.Duration // until the last response
	// Latency is the time from sending a request until its response was read. In the
	// open loop it begins when the request was due, so that a stall counts for all the
	// requests it delayed.
	Latency []time.Duration // sorted
}

// PerSecond returns 2xx responses per second.
func (r *Result) PerSecond() float64 { return float64(r.Answered) / r.Took.Seconds() }

// Run sends requests until the duration is over and returns when every response has
// come. A broken connection ends the run with an error.
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
		result.Latency = append(result.Latency, c.latency...)
	}
	slices.Sort(result.Latency)
	return result, errors.Join(errs...)
}

// schedule returns a function that returns the next request's number and due time. In
// the closed loop the due time is now.
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
	latency  []time.Duration
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
		c.latency = append(c.latency, time.Since(due))
		if status/100 == 2 {
			c.answered++
		} else {
			c.refused++
		}
	}
}

// waitUntil reports whether the time was reached before the context ended.
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
	r = append(r, "\r\n"...)
	r = append(r, c.options.Fields...)
	r = append(r, "Content-Type: application/json\r\nContent-Length: "...)
	r = strconv.AppendInt(r, int64(len(c.body)), 10)
	r = append(r, "\r\n\r\n"...)
	r = append(r, c.body...)
	c.request = r
	if _, err := c.conn.Write(r); err != nil {
		return 0, err
	}
	return readAnswer(c.answers)
}

// readAnswer reads one response and returns its status.
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
