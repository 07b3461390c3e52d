package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// tracing compares a relay that exports every span with one that makes none. The
// collector is on the same machine and drops everything, so the cost is that of the
// relay and of the transport.
func tracing() scenario {
	const connections, each = 64, 3 // spans of an event that succeeds at its first attempt
	name := "delivered events, every one traced"
	return scenario{
		rows: []row{
			{name: name, unit: "deliveries/s", against: "not traced", compare: ratio, least: 0.85},
			{name: "CPU time, " + name, unit: "µs", against: "not traced", compare: ratio},
		},
		relay: func(ctx context.Context, o options) (outcome, error) {
			c, err := startCollector(ctx)
			if err != nil {
				return outcome{}, err
			}
			defer c.stop()
			result, err := deliverAll(ctx, o, delivering{webhooks: 1, connections: connections, env: c.environment()})
			result.note += fmt.Sprintf(", %d exports of %.1f MB", c.exports.Load(), float64(c.bytes.Load())/1e6)
			if err == nil && c.exports.Load() == 0 {
				err = fmt.Errorf("no span of %d for each event was exported", each)
			}
			return result, err
		},
		baseline: func(ctx context.Context, o options) (outcome, error) {
			return deliverAll(ctx, o, delivering{webhooks: 1, connections: connections})
		},
	}
}

// collector accepts exported spans and counts them.
type collector struct {
	endpoint       string
	exports, bytes atomic.Int64
	server         *http.Server
}

func startCollector(ctx context.Context) (*collector, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for spans: %w", err)
	}
	c := &collector{endpoint: "http://" + l.Addr().String()}
	buffers := sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}
	c.server = &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		buffer := buffers.Get().(*[]byte)
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, *buffer) // hides ReadFrom of io.Discard, whose buffer is smaller
		buffers.Put(buffer)
		if err != nil {
			return // the relay ended during the request
		}
		c.exports.Add(1)
		c.bytes.Add(n)
		w.Header().Set("Content-Type", "application/x-protobuf")
	})}
	go func() { _ = c.server.Serve(l) }() // stop ends it
	return c, nil
}

// environment returns variables that make a relay export every span to the collector.
func (c *collector) environment() []string {
	return []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + c.endpoint, "OTEL_TRACES_SAMPLER=always_on"}
}

func (c *collector) stop() { _ = c.server.Close() }
