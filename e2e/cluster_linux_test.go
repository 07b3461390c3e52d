package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/userhero/relay/e2e/natsproc"
)

// relayCluster is two relays on NATS servers, under the load of clients.
type relayCluster struct {
	t        *testing.T
	servers  []*natsproc.Server
	relays   []*relayServer
	receiver *receiver
	load     *load

	routes []string // of embedded servers, and the files of their TLS
	tls    string
}

// startCluster starts n NATS servers, and two relays with several webhooks, so that each
// relay owns some. The queue's block has the given options.
func startCluster(t *testing.T, n int, queue string) *relayCluster {
	t.Helper()
	c := newCluster(t)
	c.servers = startNATS(t, n, natsproc.Options{})
	for range 2 {
		c.relays = append(c.relays, startRelay(t, relayOptions{app: c.webhooks(), nats: c.servers, queue: queue}))
	}
	return c
}

func newCluster(t *testing.T) *relayCluster {
	t.Helper()
	return &relayCluster{t: t, receiver: startReceiver(t, nil), load: newClusterLoad(t)}
}

// newClusterLoad is a load that leaves time for what else the machine does, for a cluster is
// five processes, and other clusters run beside it. make soak-cluster runs them one by one,
// under as much load as they take.
func newClusterLoad(t *testing.T) *load {
	t.Helper()
	l := newLoad(t)
	l.pause = 50 * time.Millisecond
	if os.Getenv("SOAK") != "" {
		l.pause = 5 * time.Millisecond
	}
	return l
}

func (c *relayCluster) webhooks() string {
	var app strings.Builder
	for i := range 4 {
		fmt.Fprintf(&app, "webhook app%d {\n url %s/app%d\n secret %s\n}\n", i, c.receiver.url, i, secret)
	}
	return app.String()
}

// submitting starts eight or nine clients, as many of them at each relay. A submission that
// got no answer is sent again, to the other relays in turn.
func (c *relayCluster) submitting(relays ...*relayServer) {
	for i, relay := range relays {
		c.load.start(relay, 9/len(relays), true, slices.Concat(relays[i+1:], relays[:i])...)
	}
}

// progress waits until the cluster has accepted more.
func (c *relayCluster) progress() {
	c.t.Helper()
	before := c.load.acknowledgements()
	eventually(c.t, time.Minute, "200 more acknowledged events", func() bool { return c.load.acknowledgements() >= before+200 })
}

// killServer ends a server with SIGKILL, lets the others work, and starts it again.
func (c *relayCluster) killServer(i int) {
	c.t.Helper()
	c.servers[i].Kill()
	c.progress()
	c.startServer(i)
}

func (c *relayCluster) startServer(i int) {
	c.t.Helper()
	if err := c.servers[i].Start(); err != nil {
		c.t.Fatal(err)
	}
	if err := c.servers[i].Ready(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
}

// abandon kills the relays, because a stop would wait for servers or streams that are lost.
func (c *relayCluster) abandon() {
	for _, relay := range c.relays {
		relay.abandon()
	}
}

// healthy waits until every relay is, for at most 15 s as promised.
func (c *relayCluster) healthy() { c.t.Helper(); c.healthyWithin(15 * time.Second) }

func (c *relayCluster) healthyWithin(most time.Duration) {
	c.t.Helper()
	for i, relay := range c.relays {
		began, said := time.Now(), ""
		eventually(c.t, most, "the relay is healthy", func() bool {
			response, err := relay.client.Get("http://" + relay.admin + "/userhero/healthz")
			if err != nil {
				said = err.Error()
				return false
			}
			defer func() { _ = response.Body.Close() }()
			if response.StatusCode == http.StatusOK {
				return true
			}
			if answer, err := io.ReadAll(response.Body); err == nil && string(answer) != said {
				said = string(answer)
				c.t.Logf("relay %d after %v: %s", i, time.Since(began).Round(time.Millisecond), said)
			}
			return false
		})
	}
}

// restartRelays restarts one relay after the other as planned, under load. It returns how
// long the slowest start took.
func (c *relayCluster) restartRelays(within time.Duration) (slowest time.Duration) {
	c.t.Helper()
	for _, relay := range c.relays {
		c.progress()
		slowest = max(slowest, relay.restart(within))
	}
	c.progress()
	return slowest
}

// count is what has become of the acknowledged events.
type count struct{ acknowledged, lost, deliveries, duplicates int }

// settle ends the load and waits until everything acknowledged has arrived at every
// webhook, or no more arrives for some time.
func (c *relayCluster) settle() (n count) {
	c.t.Helper()
	c.load.end()
	var mu sync.Mutex
	times := map[string]int{} // by delivery
	feedback := map[string]int{}
	seen := 0
	quiet := time.Now()
	complete := func() bool {
		mu.Lock()
		defer mu.Unlock()
		all := c.receiver.arrivals()
		if len(all) > seen {
			quiet = time.Now()
		}
		for _, a := range all[seen:] {
			if times[a.delivery]++; times[a.delivery] == 1 {
				feedback[documentOf(c.t, a).Data.ID]++
			}
		}
		seen = len(all)
		n = count{acknowledged: c.load.acknowledgements(), deliveries: len(times), duplicates: seen - len(times)}
		c.load.mu.Lock()
		for id := range c.load.acknowledged {
			if feedback[id] < 4 {
				n.lost++
			}
		}
		c.load.mu.Unlock()
		return n.lost == 0 || time.Since(quiet) > 40*time.Second
	}
	eventually(c.t, 3*time.Minute, "what was acknowledged has arrived", complete)
	feedbackIDs(c.t, c.receiver.arrivals()) // signatures, and equal bytes
	c.t.Logf("%d acknowledged, %d lost; %d deliveries, %d of them twice; %d refused, %d without an answer, slowest answer %v",
		n.acknowledged, n.lost, n.deliveries, n.duplicates, c.load.refusals(), c.load.broken, c.load.slowest.Round(time.Millisecond))
	return n
}

// keepsAll checks what holds after every fault.
func (c *relayCluster) keepsAll() count {
	c.t.Helper()
	c.healthy()
	n := c.settle()
	if n.lost > 0 {
		c.t.Errorf("%d acknowledged events did not reach every webhook", n.lost)
	}
	if c.load.slowest > 13*time.Second {
		c.t.Errorf("a submission waited %v for its answer", c.load.slowest)
	}
	return n
}

// clusterRounds is how many kills there are in a test; in make soak-cluster, 20 times SOAK.
func clusterRounds() int {
	if n, _ := strconv.Atoi(os.Getenv("SOAK")); n > 0 {
		return 20 * n
	}
	return 4
}

// TestClusterSurvivesKills: SIGKILLs of servers and relays in turn, under load.
func TestClusterSurvivesKills(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, "")
	c.submitting(c.relays...)
	for round := range clusterRounds() {
		c.progress()
		if round%2 == 0 {
			c.killServer(round / 2 % 3)
			continue
		}
		c.relays[round/2%2].process.Kill()
		c.progress()
		c.relays[round/2%2].start()
	}
	c.progress()
	n := c.keepsAll()
	// A relay that dies had at most 8 attempts of each webhook in flight. Servers that die
	// cost no duplicate. A short run has too few deliveries for a share of them.
	most := clusterRounds() / 2 * 4 * 8
	if os.Getenv("SOAK") != "" {
		most = n.deliveries / 2000 // 0.05 %
	}
	if n.duplicates > most {
		t.Errorf("%d duplicates, want at most %d", n.duplicates, most)
	}
}

// TestClusterSurvivesTheLossOfAllServersAtOnce: what was acknowledged is on the disks.
func TestClusterSurvivesTheLossOfAllServersAtOnce(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, "")
	c.submitting(c.relays...)
	c.progress()
	for _, s := range c.servers {
		go s.Kill()
	}
	for _, s := range c.servers {
		if err := s.Ended(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	refused := c.load.refusals()
	eventually(t, 30*time.Second, "submissions are refused", func() bool { return c.load.refusals() > refused })
	for _, relay := range c.relays {
		eventually(t, 15*time.Second, "health is red", func() bool {
			response, err := relay.client.Get("http://" + relay.admin + "/userhero/healthz")
			if err != nil {
				return false
			}
			_ = response.Body.Close()
			return response.StatusCode == http.StatusServiceUnavailable
		})
	}
	for i := range c.servers {
		if err := c.servers[i].Start(); err != nil {
			t.Fatal(err)
		}
	}
	c.progress()
	c.keepsAll()
}

// TestClusterSurvivesARelayThatSleeps: a relay that was stopped for 22 s has lost its
// webhooks to the other one, and settles nothing when it wakes.
func TestClusterSurvivesARelayThatSleeps(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, "")
	c.load.start(c.relays[1], 4, true)
	c.progress()
	sleeper := c.relays[0].process
	if err := syscall.Kill(sleeper.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	slept := time.NewTimer(22 * time.Second)
	defer slept.Stop()
	id := c.relays[1].mustSubmit("while it sleeps")
	c.receiver.await(t, 20*time.Second, "the other relay delivers to all webhooks", func(all []arrival) bool {
		return feedbackIDs(t, all)[id] >= 4
	})
	<-slept.C
	if err := syscall.Kill(sleeper.PID(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	c.progress()
	c.keepsAll()
}

// TestClusterRestartsWithoutANotice: servers that are put into lame duck mode and relays
// that get SIGTERM, one after the other, cost no submission and no duplicate.
func TestClusterRestartsWithoutANotice(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, "")
	c.submitting(c.relays...)
	for i, s := range c.servers {
		c.progress()
		if err := s.Signal(syscall.SIGUSR2); err != nil {
			t.Fatal(err)
		}
		ending, cancel := context.WithTimeout(t.Context(), time.Minute)
		err := s.Ended(ending)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		c.startServer(i)
	}
	c.restartRelays(30 * time.Second)
	n := c.keepsAll()
	if n.duplicates > 0 || c.load.refusals() > 0 || c.load.broken > 0 {
		t.Errorf("%d duplicates, %d without an answer, %d refused: %v", n.duplicates, c.load.broken, c.load.refusals(), c.load.refused)
	}
}

// TestClusterKeepsEventsWithoutADisk: a server that comes back with an empty folder
// costs nothing if there are copies. With one copy it does, which is the control.
func TestClusterKeepsEventsWithoutADisk(t *testing.T) {
	t.Parallel()
	for name, lossy := range map[string]bool{"three copies": false, "one copy, the control": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, queue := 3, ""
			if lossy {
				n, queue = 1, "replicas 1"
			}
			c := startCluster(t, n, queue)
			c.submitting(c.relays...)
			c.progress()
			c.load.end() // what is waiting then must come from a disk
			c.servers[0].Kill()
			if err := os.RemoveAll(c.servers[0].Dir); err != nil {
				t.Fatal(err)
			}
			c.startServer(0)
			stored := 0
			if lossy {
				eventually(t, time.Minute, "the server answers", func() (answered bool) {
					n, err := c.servers[0].Stored("userhero_events")
					stored = n
					return err == nil
				})
				c.abandon()
			} else {
				eventually(t, time.Minute, "the relay has all events", func() bool {
					response, err := c.relays[0].client.Get("http://" + c.relays[0].admin + "/userhero/events?limit=1000")
					if err != nil {
						return false
					}
					defer func() { _ = response.Body.Close() }()
					var page struct{ Items []struct{ ID string } }
					err = json.NewDecoder(response.Body).Decode(&page)
					stored = len(page.Items)
					// Lists may ask the server that is catching up.
					return err == nil && response.StatusCode == http.StatusOK && stored >= c.load.acknowledgements()
				})
			}
			if all := stored >= c.load.acknowledgements(); all == lossy {
				t.Errorf("%d events of %d are stored", stored, c.load.acknowledgements())
			}
		})
	}
}

// TestClusterExample runs examples/cluster/run.sh: a submission at the load balancer
// arrives at the receiver, also after a relay was killed, and Ctrl-C ends every process.
func TestClusterExample(t *testing.T) {
	t.Parallel()
	if _, err := natsproc.Binary(); err != nil {
		t.Skip(err)
	}
	port := freeRange(t, 40)
	data := t.TempDir()
	cmd := exec.Command(absolute(t, "../examples/cluster/run.sh"))
	cmd.Env = append(os.Environ(), fmt.Sprintf("PORT=%d", port), "DATA="+data, "CADDY="+binary(t), "HOME="+data,
		"XDG_DATA_HOME="+filepath.Join(data, "caddy"), "XDG_CONFIG_HOME="+filepath.Join(data, "caddy"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	log, err := os.Create(filepath.Join(data, "run.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	said := func() string { return read(t, log.Name()) }
	eventually(t, time.Minute, "the cluster is ready", func() bool { return strings.Contains(said(), "ready: ") })

	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	submit := func(message string) {
		t.Helper()
		eventually(t, 30*time.Second, message+" is accepted", func() bool {
			response, err := http.Post(base+"/feedback", "application/json", strings.NewReader(`{"message":"`+message+`"}`))
			if err != nil {
				return false
			}
			_ = response.Body.Close()
			return response.StatusCode == http.StatusAccepted
		})
		eventually(t, 40*time.Second, message+" arrives", func() bool {
			return strings.Contains(fetch(t, base+"/receiver", "application/json"), message)
		})
	}
	submit("to a whole cluster")
	_, rest, _ := strings.Cut(said(), "relay 1 is process ")
	number, _, _ := strings.Cut(rest, ";")
	pid, err := strconv.Atoi(number)
	if err != nil {
		t.Fatalf("%v in %s", err, said())
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	submit("after a kill")

	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended: // with the status of an interrupt
	case <-time.After(40 * time.Second):
		t.Fatalf("it does not end:\n%s", said())
	}
	if err := syscall.Kill(-cmd.Process.Pid, 0); err == nil {
		t.Error("a process is left")
	}
}

// freeRange returns the first of n consecutive free ports. No other test gets them.
func freeRange(t *testing.T, n int) int {
	t.Helper()
	for first, have := 0, 0; ; have++ {
		if have == n {
			return first
		}
		_, text, _ := net.SplitHostPort(freeAddress(t))
		port, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		if port != first+have {
			first, have = port, 0
		}
	}
}
