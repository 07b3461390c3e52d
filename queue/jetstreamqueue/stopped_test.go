package jetstreamqueue_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/jetstreamqueue"
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/deliver"
)

// The environment of a relay that runs as a process of its own.
const (
	envServers  = "JETSTREAM_TEST_SERVERS"
	envReceiver = "JETSTREAM_TEST_RECEIVER"
	envTTL      = "JETSTREAM_TEST_TTL"
)

// TestRelayProcess is a relay in a process of its own. Without its environment it does
// nothing.
func TestRelayProcess(t *testing.T) {
	servers := os.Getenv(envServers)
	if servers == "" {
		return
	}
	ttl, err := time.ParseDuration(os.Getenv(envTTL))
	if err != nil {
		t.Fatal(err)
	}
	q, r := startRelay(t, jetstreamqueue.Options{Servers: strings.Split(servers, ","), Prefix: "stop", LockTTL: ttl}, os.Getenv(envReceiver))
	fmt.Println("started")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // until the test wants it to end
	if err := r.Stop(context.Background()); err != nil {
		t.Error(err)
	}
	if err := q.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

// startRelay starts a relay with one webhook.
func startRelay(t *testing.T, o jetstreamqueue.Options, receiver string) (*jetstreamqueue.Queue, *relay.Relay) {
	t.Helper()
	o.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	q, err := jetstreamqueue.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	r := relay.New(relay.Options{Queue: q, Logger: o.Logger})
	if err := r.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Attach(relay.Config{
		Webhooks: []relay.WebhookConfig{{Name: "w", URL: receiver}}, Egress: deliver.Egress{Allow: []string{"127.0.0.1"}},
	}); err != nil {
		t.Fatal(err)
	}
	return q, r
}

// TestStoppedOwnerIsReplaced stops the relay that owns a lane for longer than its lock
// lasts, and lets it go on: meanwhile another relay delivers, nothing is lost, and only
// what was in flight comes twice.
func TestStoppedOwnerIsReplaced(t *testing.T) {
	t.Parallel()
	ttl, stopped := 3*time.Second, 7*time.Second
	if soak() > 0 {
		ttl, stopped = 13*time.Second, 22*time.Second
	}
	servers := cluster(t)
	var mu sync.Mutex
	got := make(map[string]int)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		got[r.Header.Get("X-UserHero-Delivery")]++
	}))
	t.Cleanup(receiver.Close)

	process := exec.Command(os.Args[0], "-test.run", "^TestRelayProcess$", "-test.timeout", "10m")
	process.Env = append(os.Environ(), envServers+"="+strings.Join(urls(servers), ","), envReceiver+"="+receiver.URL, envTTL+"="+ttl.String())
	process.Stderr = os.Stderr
	process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := process.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	started, read, ended := make(chan error), make(chan struct{}), make(chan struct{})
	var status error // of the process, once it has ended
	go func() {
		defer close(ended)
		runtime.LockOSThread() // the process ends with the thread that has started it
		err := process.Start()
		started <- err
		if err == nil {
			<-read // Wait closes the pipe
			status = process.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = process.Process.Kill()
		<-ended
	})
	lines := bufio.NewReader(stdout)
	line, err := lines.ReadString('\n')
	go func() {
		_, _ = lines.WriteTo(os.Stderr)
		close(read)
	}()
	if err != nil || line != "started\n" {
		t.Fatalf("the relay's process says %q, error %v", line, err)
	}
	var here *relay.Relay
	end := func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		_ = here.Stop(ctx)
		_ = here.Queue().Close(ctx)
	}
	begin := func() {
		_, here = startRelay(t, jetstreamqueue.Options{Servers: urls(servers), Prefix: "stop", LockTTL: ttl}, receiver.URL)
	}
	begin()
	t.Cleanup(func() { end() })
	accepted := make(map[string]time.Time)
	accept := func() {
		t.Helper()
		receipt, err := here.Accept(t.Context(), queue.Entry{
			Type: string(event.Created), Feedback: queue.FeedbackID{ID: fmt.Sprintf("fb_%d", len(accepted))}, Body: []byte(`{"event":"feedback.created"}`),
		})
		if err != nil {
			t.Fatal(err)
		}
		id := queue.DeliveryID{Event: receipt.Event.ID, Webhook: 1}
		accepted[id.String()] = time.Now()
	}
	reached := func() (missing, twice int) {
		mu.Lock()
		defer mu.Unlock()
		for id := range accepted {
			if got[id] == 0 {
				missing++
			}
			twice += max(got[id]-1, 0)
		}
		return missing, twice
	}
	for range 50 {
		accept()
	}
	eventually(t, "the first relay delivers", func() bool { missing, _ := reached(); return missing == 0 })
	// The lane goes to this relay if its name ranks higher, two seconds after it asks.
	for tries := 0; here.Queue().Stats(t.Context()).LanesOwned() > 0; tries++ {
		if tries == 20 {
			t.Fatal("twenty relays rank higher than the one that is to be stopped")
		}
		end()
		begin()
	}
	if err := process.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began, longest := time.Now(), time.Duration(0)
	for time.Since(began) < stopped {
		accept()
		sent := time.Now()
		eventually(t, "what comes while the owner is stopped is delivered", func() bool { missing, _ := reached(); return missing == 0 })
		longest = max(longest, time.Since(sent))
		time.Sleep(20 * time.Millisecond)
	}
	if longest > ttl+5*time.Second {
		t.Errorf("a delivery waited %v for the next owner, whose lock lasts %v", longest, ttl)
	}
	if err := process.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		accept()
	}
	eventually(t, "everything is delivered", func() bool { missing, _ := reached(); return missing == 0 })
	eventually(t, "both relays count the same", func() bool {
		w, _ := here.Webhook("w")
		return w.Counts.Delivered == int64(len(accepted)) && w.Counts.Pending == 0 && w.State == relay.Active
	})
	missing, twice := reached()
	if missing > 0 || twice > relay.DefaultConcurrency {
		t.Errorf("%d deliveries are missing and %d came twice; at most %d were in flight", missing, twice, relay.DefaultConcurrency)
	}
	if _, err := stdin.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	<-ended
	if status != nil {
		t.Errorf("the stopped relay ends with %v", status)
	}
	t.Logf("%d deliveries, %d twice; the longest waited %v", len(accepted), twice, longest)
}

// TestAcknowledgedSurvivesTheDeathOfAllServers kills all three servers at once. The
// negative control keeps the streams in memory, and must lose what was acknowledged.
func TestAcknowledgedSurvivesTheDeathOfAllServers(t *testing.T) {
	t.Parallel()
	for name, inMemory := range map[string]bool{"files": false, "memory": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			servers := cluster(t)
			o := jetstreamqueue.Options{Servers: urls(servers), Prefix: "all"}
			if inMemory {
				o = o.InMemory()
			}
			q := opened(t, o)
			acknowledged := make(map[queue.EventID]bool)
			var mu sync.Mutex
			var writing sync.WaitGroup
			ctx, stop := context.WithCancel(t.Context())
			for i := range 4 {
				writing.Go(func() {
					for n := 0; ctx.Err() == nil; n++ {
						r, err := q.Enqueue(ctx, queue.Entry{
							Type: "feedback.created", Feedback: queue.FeedbackID{ID: fmt.Sprintf("fb_%d_%d", i, n)}, Created: time.Now(), Body: []byte("{}"),
						})
						if err == nil {
							mu.Lock()
							acknowledged[r.Event.ID] = true
							mu.Unlock()
						}
					}
				})
			}
			eventually(t, "some events are acknowledged", func() bool { mu.Lock(); defer mu.Unlock(); return len(acknowledged) > 200 })
			for _, s := range servers {
				s.Kill()
			}
			stop()
			writing.Wait()
			for _, s := range servers {
				s.start(t)
			}
			for _, s := range servers {
				s.ready(t)
			}
			again := opened(t, o)
			lost := 0
			for id := range acknowledged {
				if _, err := again.Event(t.Context(), id); err != nil {
					lost++
				}
			}
			if inMemory != (lost > 0) {
				t.Errorf("%d of %d acknowledged events are lost", lost, len(acknowledged))
			}
			t.Logf("%d of %d acknowledged events are lost", lost, len(acknowledged))
		})
	}
}
