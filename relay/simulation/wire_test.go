package simulation

import (
	"context"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// dialTimeout is how long connecting may take. It is not quite that of the
// relay, nor any webhook's, so that no two timers end at one instant.
const dialTimeout = 10*time.Second + 3*time.Millisecond

// wire is the network of one process: pipes to receivers. Severing it is what
// the death of the process does to its connections.
type wire struct {
	w *world

	mu      sync.Mutex // guards everything below
	severed bool
	conns   map[net.Conn]bool // the receivers' ends
}

func newWire(w *world) *wire { return &wire{w: w, conns: make(map[net.Conn]bool)} }

// dial is relay.Options.Dial.
func (n *wire) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	failed := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	r := n.w.receiver(host)
	if r == nil {
		return failed(&net.DNSError{Err: "no such host", Name: host, IsNotFound: true})
	}
	switch r.mood() {
	case refusing:
		return failed(os.NewSyscallError("connect", syscall.ECONNREFUSED))
	case unresolvable:
		return failed(&net.DNSError{Err: "server misbehaving", Name: host, IsTemporary: true})
	case unreachable:
		select {
		case <-ctx.Done():
			return failed(ctx.Err())
		case <-time.After(dialTimeout):
			return failed(os.ErrDeadlineExceeded)
		case <-n.w.over:
			return failed(os.ErrClosed)
		}
	}
	near, far := net.Pipe()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.severed {
		return failed(os.NewSyscallError("connect", syscall.ENETUNREACH))
	}
	n.conns[far] = true
	n.w.serving.Go(func() {
		defer func() {
			_ = far.Close()
			n.mu.Lock()
			delete(n.conns, far)
			n.mu.Unlock()
		}()
		r.serve(far)
	})
	return near, nil
}

// sever closes every connection and lets no more be made.
func (n *wire) sever() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.severed = true
	for c := range n.conns {
		_ = c.Close()
	}
}

// open is how many connections there are.
func (n *wire) open() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.conns)
}

// hostOf names a receiver's host.
func hostOf(name string) string { return strings.ToLower(name) + ".example" }
