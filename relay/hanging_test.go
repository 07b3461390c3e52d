package relay

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
	"github.com/userhero/relay/relay/deliver"
)

// TestThousandHangingReceiversDelayNobody: a thousand receivers accept requests and
// never answer. The p99 of a healthy webhook, from acceptance to arrival, stays that of
// a relay with only this webhook, measured at the same time. In the end no goroutine is
// left. RELAY_HANGING sets another number; `make soak` runs ten thousand.
func TestThousandHangingReceiversDelayNobody(t *testing.T) {
	hanging, events := 1000, 300
	if s := os.Getenv("RELAY_HANGING"); s != "" {
		var err error
		if hanging, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	silent := startSilent(t)
	var others []WebhookConfig
	for i := range hanging {
		others = append(others, WebhookConfig{Name: fmt.Sprintf("hanging-%d", i), URL: silent.url, Events: []event.Type{event.Created}, Timeout: 2 * time.Minute})
	}
	beside, alone := newHealthyRelay(t, others), newHealthyRelay(t, nil)
	accept(t, beside.relay, "fb_first")
	for end := time.Now().Add(time.Minute); int(silent.connections.Load()) < hanging; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d of %d receivers hang", silent.connections.Load(), hanging)
		}
	}
	pace := time.NewTicker(5 * time.Millisecond)
	defer pace.Stop()
	for range events {
		<-pace.C
		beside.submit(t)
		alone.submit(t)
	}
	p50, p99 := beside.quantiles(t)
	alone50, alone99 := alone.quantiles(t)
	t.Logf("beside %d hanging receivers: p50 %s, p99 %s; alone: p50 %s, p99 %s", hanging, p50, p99, alone50, alone99)
	if most := 3*alone99 + 50*time.Millisecond; p99 > most {
		t.Errorf("p99 %s, want at most %s", p99, most)
	}
	stopping, cancel := context.WithTimeout(t.Context(), time.Millisecond) // cancels the attempts in flight
	defer cancel()
	if err := beside.relay.Stop(stopping); err == nil {
		t.Error("nothing was under way: the receivers did not hang")
	}
	if err := alone.relay.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	beside.receiver.CloseClientConnections()
	alone.receiver.CloseClientConnections()
	awaitNoAttempts(t)
}

// healthyRelay is a relay with a webhook that answers at once. It measures how long its
// events take.
type healthyRelay struct {
	relay    *Relay
	receiver *httptest.Server
	webhook  queue.WebhookID
	came     chan struct{} // one value for each event that arrived

	mu        sync.Mutex
	arrived   map[string]time.Time
	submitted map[string]time.Time // used only by the test's goroutine
}

func newHealthyRelay(t *testing.T, others []WebhookConfig) *healthyRelay {
	h := &healthyRelay{arrived: make(map[string]time.Time), submitted: make(map[string]time.Time), came: make(chan struct{}, 1<<16)}
	h.receiver = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		h.arrived[r.Header.Get("X-UserHero-Delivery")] = time.Now()
		h.mu.Unlock()
		h.came <- struct{}{}
	}))
	t.Cleanup(h.receiver.Close)
	h.relay = New(Options{Queue: memqueue.New(memqueue.Options{})})
	if err := h.relay.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := Config{
		Egress:   deliver.Egress{Allow: []string{"127.0.0.1"}},
		Webhooks: append(others, WebhookConfig{Name: "healthy", URL: h.receiver.URL, Events: []event.Type{event.Updated}}),
	}
	if _, err := h.relay.Attach(c); err != nil {
		t.Fatal(err)
	}
	w, _ := h.relay.Webhook("healthy")
	h.webhook = w.ID
	return h
}

func (h *healthyRelay) submit(t *testing.T) {
	t.Helper()
	at := time.Now()
	receipt, err := h.relay.Accept(t.Context(), queue.Entry{Type: string(event.Updated), Feedback: queue.FeedbackID{ID: fmt.Sprint("fb_", len(h.submitted))}, Body: []byte(`{}`)})
	if err != nil {
		t.Fatal(err)
	}
	h.submitted[queue.DeliveryID{Event: receipt.Event.ID, Webhook: h.webhook}.String()] = at
}

// quantiles waits for all submitted events and returns how long they took.
func (h *healthyRelay) quantiles(t *testing.T) (p50, p99 time.Duration) {
	t.Helper()
	late := time.After(30 * time.Second)
	for range h.submitted {
		select {
		case <-h.came:
		case <-late:
			t.Fatal("not every event has arrived")
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var took []time.Duration
	for delivery, at := range h.submitted {
		took = append(took, h.arrived[delivery].Sub(at))
	}
	slices.Sort(took)
	return took[len(took)/2], took[len(took)*99/100]
}

// silentEnv makes the test binary a receiver that accepts connections and never
// answers, until its standard input ends. It is a process of its own so that it does
// not use up the relay's file descriptors.
const silentEnv = "RELAY_TEST_SILENT"

func TestMain(m *testing.M) {
	if os.Getenv(silentEnv) == "" {
		os.Exit(m.Run())
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr())
	go func() {
		var held []net.Conn // so that the garbage collector does not close them
		for {
			c, err := l.Accept()
			if err != nil {
				panic(err)
			}
			held = append(held, c)
			fmt.Println(len(held))
		}
	}()
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// silentReceiver is a process started with silentEnv.
type silentReceiver struct {
	url         string
	connections atomic.Int64
}

func startSilent(t *testing.T) *silentReceiver {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), silentEnv+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatal("the silent receiver does not say where it is")
	}
	s := &silentReceiver{url: "http://" + lines.Text() + "/"}
	counted := make(chan struct{})
	go func() {
		defer close(counted)
		for lines.Scan() {
			if n, err := strconv.ParseInt(lines.Text(), 10, 64); err == nil {
				s.connections.Store(n)
			}
		}
	}()
	t.Cleanup(func() {
		_ = in.Close()
		<-counted
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// attempting counts the goroutines that attempts and their connections have started.
func attempting() (n int, stacks string) {
	buf := make([]byte, 8<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var found []string
	for g := range strings.SplitSeq(string(buf), "\n\n") {
		for _, of := range []string{"net/http.(*persistConn)", "net/http.(*Transport)", "http2", "deliver.(*Receiver).Attempt", "deliver.(*egress).dial"} {
			if strings.Contains(g, of) && !strings.Contains(g, "testing.tRunner") {
				n++
				found = append(found, g)
				break
			}
		}
	}
	return n, strings.Join(found, "\n\n")
}

// awaitNoAttempts waits until no goroutine of an attempt is left.
func awaitNoAttempts(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		n, stacks := attempting()
		if n == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d goroutines of attempts are left:\n%s", n, stacks)
		}
	}
}
