// Package netns makes a network of hosts for a test: each is a network namespace, which
// processes run in as if it were a machine of its own. Hosts can be cut off from the others
// and joined again.
//
// It promises that a cut drops every packet without an answer, as a broken cable does, and
// that nothing is left when the test process ends. It needs root and the program ip.
package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Network connects hosts.
type Network struct {
	hub   *namespace
	hosts []*Host
}

// Host is one machine of a network. Programs on it reach only themselves, at 127.0.0.1, and
// the other hosts.
type Host struct {
	*namespace
	// Address is the IP address at which the other hosts reach it.
	Address string

	network *Network
	port    string // the hub's end of the cable
}

// namespace is a network namespace, which lives as long as its thread.
type namespace struct {
	path string // of the namespace's file
	work chan func()
}

// The hub's two switches. All hosts are at the first one, those that are cut off at the
// second one.
const (
	whole = "whole"
	apart = "apart"
)

// dialFor is how long Dial tries at most.
const dialFor = time.Second

// New makes a network of n hosts.
func New(n int) (*Network, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("network namespaces need root")
	}
	hub, err := newNamespace()
	if err != nil {
		return nil, err
	}
	network := &Network{hub: hub}
	for _, name := range []string{whole, apart} {
		if err := hub.ip("link add "+name+" type bridge", "link set "+name+" up"); err != nil {
			network.Close()
			return nil, err
		}
	}
	for i := range n {
		if err := network.add(fmt.Sprintf("port%d", i+1), fmt.Sprintf("10.77.0.%d", i+1)); err != nil {
			network.Close()
			return nil, err
		}
	}
	return network, nil
}

func (n *Network) add(port, address string) error {
	space, err := newNamespace()
	if err != nil {
		return err
	}
	n.hosts = append(n.hosts, &Host{namespace: space, Address: address, network: n, port: port})
	if err := n.hub.ip("link add "+port+" type veth peer name eth0 netns "+space.path,
		"link set "+port+" master "+whole, "link set "+port+" up"); err != nil {
		return err
	}
	return space.ip("address add "+address+"/24 dev eth0", "link set eth0 up", "link set lo up")
}

// Hosts are all hosts, in the order of their addresses.
func (n *Network) Hosts() []*Host { return n.hosts }

// Close ends the network. Processes on hosts must have ended.
func (n *Network) Close() {
	for _, h := range n.hosts {
		close(h.work)
	}
	close(n.hub.work)
}

// Cut separates hosts from the others. They still reach each other.
func (n *Network) Cut(hosts ...*Host) error { return n.plug(apart, hosts) }

// Join ends a cut.
func (n *Network) Join(hosts ...*Host) error { return n.plug(whole, hosts) }

func (n *Network) plug(bridge string, hosts []*Host) error {
	var lines []string
	for _, h := range hosts {
		lines = append(lines, "link set "+h.port+" master "+bridge)
	}
	return n.hub.ip(lines...)
}

// newNamespace starts the thread that has the namespace. The thread is never used for
// anything else, and ends with Close.
func newNamespace() (*namespace, error) {
	s := &namespace{work: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		err := syscall.Unshare(syscall.CLONE_NEWNET)
		s.path = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), syscall.Gettid())
		made <- err
		if err != nil {
			return
		}
		for work := range s.work {
			work()
		}
	}()
	if err := <-made; err != nil {
		return nil, fmt.Errorf("making a network namespace, which needs root (CAP_SYS_ADMIN): %w", err)
	}
	return s, nil
}

// do calls f on the namespace's thread: sockets that f makes are in the namespace.
func (s *namespace) do(f func()) {
	done := make(chan struct{})
	s.work <- func() { defer close(done); f() }
	<-done
}

// ip runs lines of the program ip.
func (s *namespace) ip(lines ...string) (err error) {
	s.do(func() {
		cmd := exec.Command("ip", "-batch", "-") //nolint:noctx // it does not wait for anything
		cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
		out, failed := cmd.CombinedOutput()
		if failed != nil {
			err = fmt.Errorf("ip %s: %w: %s", strings.Join(lines, "; "), failed, out)
		}
	})
	return err
}

// Command is what a program on the host is started with, before its own path.
func (h *Host) Command() []string { return []string{"nsenter", "--net=" + h.path, "--"} }

// DialContext connects from the host. The address is an IP address and a port.
func (h *Host) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	h.do(func() { conn, err = new(net.Dialer).DialContext(ctx, network, address) })
	return conn, err
}

// Dial is DialContext for clients that bound the time otherwise, such as those of NATS.
func (h *Host) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dialFor)
	defer cancel()
	return h.DialContext(ctx, network, address)
}

// Listen listens on the host.
func (h *Host) Listen(ctx context.Context, address string) (l net.Listener, err error) {
	h.do(func() { l, err = new(net.ListenConfig).Listen(ctx, "tcp", address) })
	return l, err
}
