package e2e

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// mostAnonymous is the most memory that the relay may take under full load (RssAnon).
const mostAnonymous = 192 << 20

// cgroup is a group of processes with a memory limit, of either version.
type cgroup struct {
	path     string
	limit    string // name of the file with the limit
	oomFile  string // the file that counts processes killed for memory
	peakFile string
}

// newCgroup makes a group that is gone with the test.
func newCgroup(t *testing.T, limit int64) cgroup {
	t.Helper()
	for _, g := range []cgroup{
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.oom_control", "memory.max_usage_in_bytes"},
		{"/sys/fs/cgroup", "memory.max", "memory.events", "memory.peak"},
	} {
		controllers, err := os.ReadFile(filepath.Join(g.path, "cgroup.controllers"))
		if second := g.limit == "memory.max"; second && (err != nil || !strings.Contains(string(controllers), "memory")) {
			continue
		} else if second {
			_ = os.WriteFile(filepath.Join(g.path, "cgroup.subtree_control"), []byte("+memory"), 0o600) // or it is on already
		}
		g.path = filepath.Join(g.path, "relay-"+strconv.Itoa(os.Getpid())+"-"+strconv.FormatInt(time.Now().UnixNano(), 36))
		if os.Mkdir(g.path, 0o755) != nil {
			continue
		}
		t.Cleanup(func() {
			eventually(t, 20*time.Second, "the group is empty", func() bool {
				err := os.Remove(g.path)
				return err == nil || errors.Is(err, fs.ErrNotExist)
			})
		})
		if err := os.WriteFile(filepath.Join(g.path, g.limit), []byte(strconv.FormatInt(limit, 10)), 0o600); err != nil {
			continue
		}
		return g
	}
	t.Skip("needs root and a cgroup of its own with the memory controller, to limit a relay's memory")
	return cgroup{}
}

// binary returns a program that runs the Caddy under test in the group.
func (g cgroup) binary(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "caddy")
	script := fmt.Sprintf("#!/bin/sh\necho $$ >%s/cgroup.procs && exec %s \"$@\"\n", g.path, binary(t))
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// killed is how many of its processes were killed for memory.
func (g cgroup) killed(t *testing.T) string {
	t.Helper()
	count := regexp.MustCompile(`(?m)^oom_kill (\d+)$`).FindStringSubmatch(read(t, filepath.Join(g.path, g.oomFile)))
	if count == nil {
		t.Fatalf("%s does not count the processes that were killed", g.oomFile)
	}
	return count[1]
}

// anonymousPeak samples the RssAnon of the relay's process until the context ends.
func anonymousPeak(ctx context.Context, s *relayServer) <-chan int64 {
	peak := make(chan int64, 1)
	anonymous := regexp.MustCompile(`(?m)^RssAnon:\s+(\d+) kB$`)
	go func() {
		most := int64(0)
		for tick := time.NewTicker(20 * time.Millisecond); ctx.Err() == nil; {
			if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.process.PID())); err == nil {
				if m := anonymous.FindSubmatch(text); m != nil {
					n, _ := strconv.ParseInt(string(m[1]), 10, 64)
					most = max(most, n<<10)
				}
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
		peak <- most
	}()
	return peak
}

// patience is how long clients wait for an answer. On a busy machine a commit takes its time.
const patience = time.Minute

// burst has clients submit bodies of about a size for a while, as fast as they are
// answered.
func burst(l *load, s *relayServer, connections, size int, d time.Duration) {
	message := bytes.Repeat([]byte("0123456789 feedback "), size/20)
	end := time.Now().Add(d)
	var clients sync.WaitGroup
	for client := range connections {
		clients.Go(func() {
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			c := &http.Client{Transport: transport, Timeout: patience}
			for n := 0; time.Now().Before(end); n++ {
				key := fmt.Sprintf("burst-%d-%d-%d", client, n, end.UnixNano())
				if err := l.submit(c, s, fmt.Appendf(nil, `{"message":"%s %s"}`, key, message), key); err != nil {
					l.unanswered(err)
					return
				}
			}
		})
	}
	clients.Wait()
}

// waitingNow is how many deliveries the relay says that wait.
func waitingNow(s *relayServer) int {
	var status struct {
		Deliveries struct{ Pending, Retrying, Held int }
	}
	s.get("/status", &status)
	return status.Deliveries.Pending + status.Deliveries.Retrying + status.Deliveries.Held
}

// withinLimit is what a relay lives through within a memory limit.
type withinLimit struct {
	limit     int64 // in MiB
	encrypted bool
	waiting   int           // deliveries that wait before the burst
	burst     time.Duration // of 50 KB on 256 connections
	restarts  int           // after each, a burst of a second
}

// TestLivesWithinItsLimit: with 256 MiB for the process and the files that it maps, and with
// the least that the relay promises to live with, 256 clients that submit 50 KB each are
// answered, 202 or 503, while everything waits for a receiver that is away. Nothing kills
// the process, it starts again within the same limit, and has all that it acknowledged.
// In make soak, 1,000,000 deliveries wait already, or RELAY_WAITING, and there are more limits.
func TestLivesWithinItsLimit(t *testing.T) {
	badgerOnly(t, "the memory of its tables")
	cases := []withinLimit{
		{limit: 256, burst: 8 * time.Second, restarts: 3},
		{limit: 128, burst: 3 * time.Second, restarts: 1, encrypted: true},
	}
	if os.Getenv("SOAK") != "" {
		waiting, err := strconv.Atoi(cmp.Or(os.Getenv("RELAY_WAITING"), "1000000"))
		if err != nil {
			t.Fatal(err)
		}
		cases[0].waiting = waiting
		for _, limit := range []int64{128, 160, 256} {
			for _, encrypted := range []bool{false, true} {
				cases = append(cases, withinLimit{limit: limit, encrypted: encrypted, waiting: waiting / 100, burst: 8 * time.Second, restarts: 3})
			}
		}
	}
	for _, c := range cases {
		t.Run(fmt.Sprintf("%d MiB, encrypted %v, %d waiting", c.limit, c.encrypted, c.waiting), c.lives)
	}
}

func (c withinLimit) lives(t *testing.T) {
	g := newCgroup(t, c.limit<<20)
	encryption := ""
	if c.encrypted {
		encryption = "encryption_key " + strings.Repeat("0f", 32)
	}
	away := freeAddress(t)
	s := startRelay(t, relayOptions{
		binary: g.binary(t),
		app:    fmt.Sprintf("webhook app {\n url http://%s/\n retry 1s 1h\n}", away),
		queue:  encryption,
	})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	peak := anonymousPeak(ctx, s)
	// Nothing ends a connection but the relay: each submission must get an answer.
	answered := func(l *load, when string) {
		t.Helper()
		for _, refused := range l.refused {
			if !strings.HasPrefix(refused, "503 ") {
				t.Fatalf("%s: a submission was answered %s", when, refused)
			}
		}
		t.Logf("%s: %d acknowledged, %d refused, the slowest after %s", when, l.acknowledgements(), len(l.refused), l.slowest.Round(time.Millisecond))
		if l.broken > 0 {
			t.Fatalf("%s: %d got no answer: %v", when, l.broken, l.reasons)
		}
	}
	alive := func(when string) {
		t.Helper()
		if n := g.killed(t); n != "0" {
			t.Fatalf("%s: the kernel has killed the relay for its memory (%s)", when, n)
		}
	}
	small, large := newLoad(t), newLoad(t)
	if c.waiting > 0 {
		small.patience, small.pause = patience, time.Millisecond
		small.start(s, 256, false)
		eventually(t, time.Hour, fmt.Sprint(c.waiting, " deliveries wait"), func() bool { return small.acknowledgements() >= c.waiting })
		small.end()
		alive("while they pile up")
		answered(small, "small ones")
	}
	burst(large, s, 256, 50_000, c.burst)
	alive("under load")
	answered(large, "large ones")
	acknowledged := small.acknowledgements() + large.acknowledgements()
	if large.acknowledgements() < 20 {
		t.Fatal("the burst was too small to mean anything")
	}
	for round := range c.restarts {
		s.killAndRestart()
		alive("after a start")
		if waiting := waitingNow(s); waiting < acknowledged {
			t.Fatalf("start %d: %d were acknowledged, and %d wait", round, acknowledged, waiting)
		}
		burst(large, s, 256, 50_000, time.Second)
		alive("after a start, under load")
		answered(large, "after a start")
		acknowledged = small.acknowledgements() + large.acknowledgements()
	}
	stop()
	most := <-peak
	t.Logf("RssAnon %d MiB, the group %s bytes at most", most>>20, strings.TrimSpace(read(t, filepath.Join(g.path, g.peakFile))))
	if most == 0 || most > mostAnonymous {
		t.Errorf("RssAnon was %d MiB", most>>20)
	}
}

// TestTooLittleMemoryIsSaid: a relay that may use less than it is tested with says so at the
// start, and what sets the limit.
func TestTooLittleMemoryIsSaid(t *testing.T) {
	t.Parallel()
	const said = "less memory than the relay needs"
	for limit, want := range map[string]bool{"60MiB": true, "64MiB": false} { // of Go: half of the process's
		s := startRelay(t, relayOptions{env: []string{"GOMEMLIMIT=" + limit}})
		if log := s.process.Log(); strings.Contains(log, said) != want || want && !strings.Contains(log, `"set_by":"GOMEMLIMIT"`) {
			t.Errorf("with GOMEMLIMIT=%s the log is\n%s", limit, log)
		}
	}
}

// TestFullLoadTakesLittleMemory: without any limit, and with events that go in and out as
// fast as they can.
func TestFullLoadTakesLittleMemory(t *testing.T) {
	badgerOnly(t, "the memory of its tables")
	for _, c := range []struct {
		connections, size int
		most              int64
	}{
		{64, 1000, mostAnonymous},
		// Which takes 97 to 142 MiB, and once took 206 beside browsers: the collector waits for a core.
		{256, 50_000, 256 << 20},
	} {
		t.Run(fmt.Sprintf("%d bytes on %d connections", c.size, c.connections), func(t *testing.T) {
			fullLoad(t, c.connections, c.size, c.most)
		})
	}
}

func fullLoad(t *testing.T, connections, size int, bound int64) {
	t.Helper()
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(sink.Close)
	s := startRelay(t, relayOptions{app: fmt.Sprintf("webhook app {\n url %s\n secret %s\n concurrency 32\n}", sink.URL, secret)})
	l := newLoad(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	peak := anonymousPeak(ctx, s)
	burst(l, s, connections, size, 8*time.Second)
	stop()
	most := <-peak
	t.Logf("%d acknowledged in 8 s; RssAnon %d MiB at most", l.acknowledgements(), most>>20)
	if most > bound {
		t.Errorf("RssAnon was %d MiB, want at most %d", most>>20, bound>>20)
	}
}
