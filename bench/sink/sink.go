// Package sink is a receiver that costs as little as possible: it reads each request,
// counts it and answers 200. Like package load it supports only the HTTP/1.1 it needs,
// because it runs on the same machine as the program under test.
package sink

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Sink is a running receiver.
type Sink struct {
	listener net.Listener
	deliver  func(delivery string, body []byte, at time.Time)
	count    atomic.Uint64
	first    atomic.Int64  // time of the first request, UnixNano
	last     atomic.Int64  // time of the latest request, UnixNano
	wanted   atomic.Uint64 // the count that Await waits for; 0 means none
	serving  sync.WaitGroup

	mu sync.Mutex
	// mu guards everything declared below.
	conns   map[net.Conn]bool
	most    int           // largest number of connections at once
	changed chan struct{} // closed and replaced when the wanted count is reached
}

// Start listens on a free port of 127.0.0.1. deliver, if not nil, gets each request's
// X-UserHero-Delivery, its body and its time of arrival. It must not keep the body.
// Many goroutines call it.
func Start(ctx context.Context, deliver func(delivery string, body []byte, at time.Time)) (*Sink, error) {
	return StartAt(ctx, "127.0.0.1:0", deliver)
}

// StartAt does the same at an address, such as that of an earlier sink.
func StartAt(ctx context.Context, address string, deliver func(delivery string, body []byte, at time.Time)) (*Sink, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("starting the sink: %w", err)
	}
	s := &Sink{listener: l, deliver: deliver, conns: map[net.Conn]bool{}, changed: make(chan struct{})}
	s.serving.Go(s.accept)
	return s, nil
}

// Address returns the sink's host:port.
func (s *Sink) Address() string { return s.listener.Addr().String() }

// URLs returns n different URLs of the sink.
func (s *Sink) URLs(n int) []string {
	urls := make([]string, n)
	for i := range urls {
		urls[i] = fmt.Sprintf("http://%s/hook/%d", s.Address(), i)
	}
	return urls
}

// Count returns the number of answered requests.
func (s *Sink) Count() uint64 { return s.count.Load() }

// First returns when the first request arrived.
func (s *Sink) First() time.Time { return time.Unix(0, s.first.Load()) }

// Most returns the largest number of connections that were open at once.
func (s *Sink) Most() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.most
}

// Last returns when the latest request arrived.
func (s *Sink) Last() time.Time { return time.Unix(0, s.last.Load()) }

// Await waits until the count reaches n, for at most a time.
func (s *Sink) Await(ctx context.Context, n uint64, most time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for {
		s.mu.Lock()
		changed := s.changed
		s.wanted.Store(n)
		s.mu.Unlock()
		if s.Count() >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("the sink has %d of %d requests: %w", s.Count(), n, ctx.Err())
		}
	}
}

// Close closes every connection and waits for the sink's goroutines.
func (s *Sink) Close() {
	_ = s.listener.Close()
	s.mu.Lock()
	for c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.serving.Wait()
}

func (s *Sink) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return // the listener is closed
		}
		s.mu.Lock()
		s.conns[conn] = true
		s.most = max(s.most, len(s.conns))
		s.mu.Unlock()
		s.serving.Go(func() {
			s.serve(conn)
			s.mu.Lock()
			delete(s.conns, conn)
			s.mu.Unlock()
			_ = conn.Close()
		})
	}
}

var answer = []byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

func (s *Sink) serve(conn net.Conn) {
	r := bufio.NewReaderSize(conn, 8<<10)
	var body []byte
	for {
		delivery, length, err := readHead(r)
		if err != nil {
			return // the client disconnected, or sent something else
		}
		if cap(body) < length {
			body = make([]byte, length)
		}
		body = body[:length]
		if _, err := io.ReadFull(r, body); err != nil {
			return
		}
		at := time.Now()
		if s.deliver != nil {
			s.deliver(delivery, body, at)
		}
		s.first.CompareAndSwap(0, at.UnixNano())
		s.last.Store(at.UnixNano())
		if _, err := conn.Write(answer); err != nil {
			return
		}
		s.counted(s.count.Add(1))
	}
}

// counted wakes Await if n has reached the count it waits for.
func (s *Sink) counted(n uint64) {
	if wanted := s.wanted.Load(); wanted == 0 || n < wanted {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wanted.Swap(0) != 0 {
		close(s.changed)
		s.changed = make(chan struct{})
	}
}

// readHead reads a request's head.
func readHead(r *bufio.Reader) (delivery string, length int, err error) {
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return "", 0, err
		}
		if first {
			continue
		}
		if len(line) <= 2 {
			return delivery, length, nil
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil || length < 0 {
				return "", 0, fmt.Errorf("content length %q", value)
			}
		case bytes.EqualFold(name, []byte("X-UserHero-Delivery")):
			delivery = string(bytes.TrimSpace(value))
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			return "", 0, fmt.Errorf("a chunked body, which the sink does not read")
		}
	}
}
