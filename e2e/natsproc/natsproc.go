// Package natsproc runs nats-server as a child process, alone or as a cluster on
// 127.0.0.1, the way an operator would: a configuration file, a folder, signals.
//
// It promises that Kill and Stop return only when the process has ended, and that a
// server which starts again has its folder and its ports. It does not know what the
// servers store.
package natsproc

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/userhero/relay/e2e/caddyproc"
)

// Version is the nats-server that is tested; the Makefile installs it.
const Version = "v2.15.2"

// Binary returns the nats-server that the Makefile has installed in .bin of the
// repository that the working directory is in.
func Binary() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			path := filepath.Join(dir, ".bin", "nats-server@"+Version, "nats-server")
			if _, err := os.Stat(path); err != nil {
				return "", fmt.Errorf("nats-server %s is not installed; run `make programs unit` or go install it: %w", Version, err)
			}
			return path, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("the working directory is in no module")
		}
		dir = filepath.Dir(dir)
	}
}

// Options say what to run. The zero value is one server that holds its messages in a
// folder and waits for the disk before it acknowledges.
type Options struct {
	// Dir holds the servers' folders, configurations and logs.
	Dir string
	// Extra is added to the configuration, such as TLS and users.
	Extra string
	// Connect is how Ready connects, if Extra asks for a login.
	Connect []nats.Option
	// NoSync leaves out sync_interval: always.
	NoSync bool
	// Stores are the servers' folders, by name. Default: folders in Dir.
	Stores map[string]string
	// Hosts are where the servers run, one for each. Default: this machine, on 127.0.0.1.
	Hosts []Host
}

// Host is another host, such as a network namespace.
type Host struct {
	// Address is its IP address.
	Address string
	// Command begins the command line of a program that runs there.
	Command []string
	// Dialer connects from there.
	Dialer nats.CustomDialer
}

// Server is one nats-server.
type Server struct {
	Name string
	// Address is host:port of clients.
	Address string
	// Dir holds everything that the server stores.
	Dir string

	options Options
	host    Host
	config  string

	mu      sync.Mutex // guards what follows
	process *os.Process
	ended   chan struct{}
}

// Start starts one server and waits until it answers.
func Start(ctx context.Context, o Options) (*Server, error) {
	all, err := start(ctx, o, 1)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// Cluster starts n servers that know each other and waits until they answer.
func Cluster(ctx context.Context, o Options, n int) ([]*Server, error) {
	return start(ctx, o, n)
}

func start(ctx context.Context, o Options, n int) (all []*Server, err error) {
	routes := make([]string, n)
	for i := range routes {
		if routes[i], err = o.freeAddress(i); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			End(all)
			all = nil
		}
	}()
	for i := range routes {
		s := &Server{Name: fmt.Sprintf("n%d", i+1), options: o}
		s.Dir = cmp.Or(o.Stores[s.Name], filepath.Join(o.Dir, s.Name))
		if s.Address, err = o.freeAddress(i); err != nil {
			return all, err
		}
		if o.Hosts != nil {
			s.host = o.Hosts[i]
		}
		sync := "sync_interval: always"
		if o.NoSync {
			sync = ""
		}
		config := fmt.Sprintf("server_name: %s\nlisten: %q\njetstream { store_dir: %q\n%s }\n%s\n", s.Name, s.Address, s.Dir, sync, o.Extra)
		if n > 1 {
			others := make([]string, 0, n)
			for j, address := range routes {
				if j != i {
					others = append(others, "nats://"+address)
				}
			}
			config += fmt.Sprintf("cluster { name: relay\nlisten: %q\nroutes: [%s] }\n", routes[i], strings.Join(others, ", "))
		}
		s.config = filepath.Join(o.Dir, s.Name+".conf")
		if err = os.WriteFile(s.config, []byte(config), 0o600); err != nil {
			return all, err
		}
		all = append(all, s)
		if err = s.Start(); err != nil {
			return all, err
		}
	}
	for _, s := range all {
		if err = s.Ready(ctx); err != nil {
			return all, err
		}
	}
	return all, nil
}

// freeAddress returns a free address of the host of server i.
func (o Options) freeAddress(i int) (string, error) {
	address, err := caddyproc.FreeAddress()
	if err != nil || o.Hosts == nil {
		return address, err
	}
	_, port, err := net.SplitHostPort(address)
	return net.JoinHostPort(o.Hosts[i].Address, port), err
}

// URL is where clients connect.
func (s *Server) URL() string { return "nats://" + s.Address }

// URLs are those of all servers.
func URLs(all []*Server) (list []string) {
	for _, s := range all {
		list = append(list, s.URL())
	}
	return list
}

// End ends servers; those that have ended already are left alone.
func End(all []*Server) {
	for _, s := range all {
		s.Kill()
	}
}

// Start starts the process, on the same folder and ports as before.
func (s *Server) Start() error {
	binary, err := Binary()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	line := append(slices.Clone(s.host.Command), binary, "-c", s.config)
	cmd := exec.Command(line[0], line[1:]...) //nolint:gosec,noctx // the server under test; Kill ends it
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = dieWithParent()
	started, ended := make(chan error), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // the server ends with the thread that has started it
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("starting nats-server %s: %w", s.Name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process, s.ended = cmd.Process, ended
	return nil
}

func (s *Server) logFile() string { return filepath.Join(s.options.Dir, s.Name+".log") }

// Log is everything that the server has logged.
func (s *Server) Log() string {
	b, err := os.ReadFile(s.logFile())
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func (s *Server) running() (*os.Process, chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process, s.ended
}

// Kill ends the server as a power cut does, except for what the kernel holds.
func (s *Server) Kill() {
	if process, ended := s.running(); process != nil {
		_ = process.Kill()
		<-ended
	}
}

// PID is the process's id.
func (s *Server) PID() int {
	process, _ := s.running()
	return process.Pid
}

// Signal sends a signal, such as SIGSTOP, SIGCONT, or SIGUSR2 for lame duck mode.
func (s *Server) Signal(signal syscall.Signal) error {
	process, _ := s.running()
	return process.Signal(signal)
}

// Ended waits until the process has ended.
func (s *Server) Ended(ctx context.Context) error {
	_, ended := s.running()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("nats-server %s has not ended: %w", s.Name, ctx.Err())
	}
}

// Ready waits until JetStream answers.
func (s *Server) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := s.ask()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("nats-server %s does not answer: %w\n%s", s.Name, err, s.Log())
		case <-tick.C:
		}
	}
}

func (s *Server) ask() error {
	_, err := s.request("$JS.API.INFO")
	return err
}

// request asks through this server.
func (s *Server) request(subject string) ([]byte, error) {
	options := append([]nats.Option{nats.Timeout(time.Second)}, s.options.Connect...)
	if s.host.Dialer != nil {
		options = append(options, nats.SetCustomDialer(s.host.Dialer))
	}
	nc, err := nats.Connect(s.URL(), options...)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	answer, err := nc.Request(subject, nil, time.Second)
	if err != nil {
		return nil, err
	}
	return answer.Data, nil
}

// copies is the part of a stream's state that concerns its copies.
type copies struct {
	Cluster struct {
		Leader   string
		Replicas []struct {
			Name             string
			Current, Offline bool
		}
	}
}

func (s *Server) copies(stream string) (c copies, err error) {
	answer, err := s.request("$JS.API.STREAM.INFO." + stream)
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal(answer, &c)
}

// Stored asks this server how many messages a stream has. A stream that does not exist has
// none.
func (s *Server) Stored(stream string) (int, error) {
	answer, err := s.request("$JS.API.STREAM.INFO." + stream)
	if err != nil {
		return 0, err
	}
	var info struct {
		Error *struct {
			Code        int
			Description string
		}
		State struct{ Messages int }
	}
	if err := json.Unmarshal(answer, &info); err != nil {
		return 0, err
	}
	if info.Error != nil && info.Error.Code != http.StatusNotFound {
		return 0, errors.New(info.Error.Description)
	}
	return info.State.Messages, nil
}

// Leader asks this server for the name of the server that leads a stream.
func (s *Server) Leader(stream string) (string, error) {
	c, err := s.copies(stream)
	if err == nil && c.Cluster.Leader == "" {
		err = fmt.Errorf("no server leads %s", stream)
	}
	return c.Cluster.Leader, err
}

// HasAll returns nil if this server, one of three, has all that the others have in the
// relay's streams. Until then no other one should be stopped.
func (s *Server) HasAll(prefix string) error {
	for _, name := range []string{"events", "state", "registry", "keys", "locks"} {
		c, err := s.copies(prefix + "_" + name)
		if err != nil {
			return err
		}
		current := c.Cluster.Leader != "" && len(c.Cluster.Replicas) == 2
		for _, r := range c.Cluster.Replicas {
			current = current && r.Current && !r.Offline
		}
		if !current {
			return fmt.Errorf("stream %s_%s: %+v", prefix, name, c)
		}
	}
	return nil
}
