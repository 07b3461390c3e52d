package jetstreamqueue_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// natsVersion is the server that is tested; the Makefile installs it.
const natsVersion = "v2.15.2"

// server is a nats-server on 127.0.0.1.
type server struct {
	name, url, dir string
	args           []string
	log            string

	mu      sync.Mutex // guards what follows
	process *os.Process
	ended   chan struct{}
}

// binary is where the Makefile has installed nats-server.
func binary(t testing.TB) string {
	t.Helper()
	path, err := filepath.Abs("../../.bin/nats-server@" + natsVersion + "/nats-server")
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Skipf("nats-server %s is not installed: run make programs (%v)", natsVersion, err)
	}
	return path
}

// port is the next one to try. They lie below those that systems give to clients, so
// that a server that starts again finds its own free.
var port atomic.Int32

func freePort(t testing.TB) int {
	t.Helper()
	port.CompareAndSwap(0, int32(20000+os.Getpid()%8000))
	for range 4000 {
		p := int(port.Add(1))
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return p
	}
	t.Fatal("no port is free")
	return 0
}

// oneServer starts a server that ends with the test.
func oneServer(t testing.TB, extra ...string) *server {
	t.Helper()
	s := &server{name: "alone", dir: t.TempDir()}
	port := freePort(t)
	s.url = fmt.Sprintf("nats://127.0.0.1:%d", port)
	s.args = append([]string{"-a", "127.0.0.1", "-p", fmt.Sprint(port), "-js", "-sd", s.dir, "-n", s.name}, extra...)
	s.start(t)
	s.ready(t)
	return s
}

// cluster starts three servers that know each other.
func cluster(t testing.TB) []*server {
	t.Helper()
	routes := make([]int, 3)
	for i := range routes {
		routes[i] = freePort(t)
	}
	var all []*server
	for i := range routes {
		var others []string
		for j, port := range routes {
			if j != i {
				others = append(others, fmt.Sprintf("nats://127.0.0.1:%d", port))
			}
		}
		port := freePort(t)
		s := &server{name: fmt.Sprintf("n%d", i+1), dir: t.TempDir(), url: fmt.Sprintf("nats://127.0.0.1:%d", port)}
		s.args = []string{
			"-a", "127.0.0.1", "-p", fmt.Sprint(port), "-js", "-sd", s.dir, "-n", s.name,
			"--cluster_name", "relay", "--cluster", fmt.Sprintf("nats://127.0.0.1:%d", routes[i]), "--routes", strings.Join(others, ","),
		}
		s.start(t)
		all = append(all, s)
	}
	for _, s := range all {
		s.ready(t)
	}
	return all
}

func (s *server) start(t testing.TB) {
	t.Helper()
	cmd := exec.Command(binary(t), s.args...)
	s.log = filepath.Join(t.TempDir(), s.name+".log")
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
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
		t.Fatal(err)
	}
	s.mu.Lock()
	s.process, s.ended = cmd.Process, ended
	s.mu.Unlock()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if b, err := os.ReadFile(s.log); err == nil && t.Failed() {
			t.Logf("the end of the log of nats-server %s:\n%s", s.name, b[max(0, len(b)-4000):])
		}
	})
}

// kill ends the server as a power cut does, but for what the kernel holds.
func (s *server) kill(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-s.ended
}

// ready waits until JetStream answers.
func (s *server) ready(t testing.TB) {
	t.Helper()
	giveUp := time.Now().Add(time.Minute)
	for {
		nc, err := nats.Connect(s.url, nats.Timeout(time.Second))
		if err == nil {
			_, err = nc.Request("$JS.API.INFO", nil, time.Second)
			nc.Close()
		}
		if err == nil {
			return
		}
		if time.Now().After(giveUp) {
			b, _ := os.ReadFile(s.log)
			t.Fatalf("nats-server %s does not answer: %v\n%s", s.name, err, b)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func urls(all []*server) (list []string) {
	for _, s := range all {
		list = append(list, s.url)
	}
	return list
}
