package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// exampleReceivers are the receivers in examples/ that handle any event, and
// whether they remember deliveries over a restart.
var exampleReceivers = []struct {
	name    string
	start   func(t *testing.T, env ...string) *example
	durable bool
}{
	{"express", func(t *testing.T, env ...string) *example { return startExpress(t, "express5", env...) }, false},
	{"go", startGoExample, false},
	{"python", startPythonExample, true},
	{"php", startPHPExample, true},
	{"ruby", startRubyExample, true},
	{"database", startDatabaseExample, true},
}

// TestExampleReceiversVerifyWhatArrives: the receivers, as they are in examples/,
// accept what the relay sends and nothing else.
func TestExampleReceiversVerifyWhatArrives(t *testing.T) {
	t.Parallel()
	receivers := map[string]*example{}
	var webhooks strings.Builder
	for _, r := range exampleReceivers {
		receivers[r.name] = r.start(t, databaseOf(t))
		fmt.Fprintf(&webhooks, "webhook %s {\n url %s\n secret %s\n retry 1h\n}\n", r.name, receivers[r.name].url, secret)
	}
	s := startRelay(t, relayOptions{app: webhooks.String()})
	for name, r := range receivers {
		mustRefuseWrongSignatures(t, s, name, r.url)
	}
	first, second := s.mustSubmit("Grüße, 日本 & <b>\u2028 👋"), s.mustSubmit("again")
	for name, r := range receivers {
		eventually(t, 10*time.Second, name+" has accepted both", func() bool { return s.webhook(name).Counts.Delivered == 2 })
		for _, id := range []string{first, second} {
			eventually(t, 10*time.Second, name+" has handled "+id, func() bool { return r.handled(id) == 1 })
		}
	}
}

// TestExampleReceiversHandleADeliveryOnce: attempts that come again, at the same
// time, or after one that failed are one delivery.
func TestExampleReceiversHandleADeliveryOnce(t *testing.T) {
	t.Parallel()
	for _, r := range exampleReceivers {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			env := databaseOf(t)
			e := r.start(t, env)
			event := func(id string) string {
				return `{"event":"feedback.created","timestamp":"2026-01-07T15:30:00Z","data":{"id":"` + id +
					`","projectId":"proj_xyz","message":"m","status":"new","createdAt":"2026-01-07T15:30:00Z"}}`
			}
			mustAccept := func(id string, attempt int) {
				t.Helper()
				if status := e.deliver(t, "delivery-"+id, attempt, event(id)).StatusCode; status/100 != 2 {
					t.Errorf("attempt %d of %s: status %d", attempt, id, status)
				}
			}
			for attempt := range 6 {
				mustAccept("fb_again", attempt+1)
			}
			var together sync.WaitGroup
			for range 8 {
				together.Go(func() { mustAccept("fb_together", 1) })
			}
			together.Wait()
			if status := e.deliver(t, "delivery-fb_failed", 1, "no JSON").StatusCode; status/100 == 2 {
				t.Errorf("a signed body that is no JSON: status %d", status)
			}
			mustAccept("fb_failed", 2)
			mustAccept("fb_last", 1)
			eventually(t, 10*time.Second, "the last is handled", func() bool { return e.handled("fb_last") == 1 })
			for _, id := range []string{"fb_again", "fb_together", "fb_failed"} {
				if n := e.handled(id); n != 1 {
					t.Errorf("%s was handled %d times", id, n)
				}
			}
			if !r.durable {
				return
			}
			e.stop()
			e = r.start(t, env)
			mustAccept("fb_again", 7)
			mustAccept("fb_new", 1)
			eventually(t, 10*time.Second, "the new one is handled", func() bool { return e.handled("fb_new") == 1 })
			if n := e.handled("fb_again"); n != 0 {
				t.Errorf("after a restart fb_again was handled %d times more", n)
			}
		})
	}
}

// databaseOf returns the variable that names a database in a folder of its own.
func databaseOf(t *testing.T) string {
	t.Helper()
	return "DATABASE=" + filepath.Join(t.TempDir(), "receiver.db")
}

// mustRefuseWrongSignatures shows that a receiver does verify: without it, a
// test that everything is accepted would mean nothing.
func mustRefuseWrongSignatures(t *testing.T, s *relayServer, name, url string) {
	t.Helper()
	for _, wrong := range []string{"", "sha256=", "sha256=" + strings.Repeat("0", 64)} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(`{"event":"feedback.created"}`))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("X-UserHero-Signature", wrong)
		response, err := s.client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusUnauthorized {
			t.Fatalf("%s answers the signature %q with %s", name, wrong, response.Status)
		}
	}
}

// startExpress runs examples/express/server.js, unchanged, on the Express of a
// folder.
func startExpress(t *testing.T, version string, env ...string) *example {
	t.Helper()
	modules := absolute(t, filepath.Join(version, "node_modules"))
	if _, err := os.Stat(filepath.Join(modules, "express")); err != nil {
		t.Fatalf("%s is not installed; run `make node`: %v", version, err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "server.js"), []byte(read(t, "../examples/express/server.js")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(modules, filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	return startExample(t, dir, env, "node", "server.js")
}

func startGoExample(t *testing.T, env ...string) *example {
	t.Helper()
	dir := t.TempDir()
	built := filepath.Join(dir, "receiver")
	if out, err := exec.Command("go", "build", "-o", built, "../examples/go").CombinedOutput(); err != nil {
		t.Fatalf("building the example: %v\n%s", err, out)
	}
	return startExample(t, dir, env, built, "-listen", freeAddress(t))
}

func startPythonExample(t *testing.T, env ...string) *example {
	t.Helper()
	return startExample(t, "../examples/python", env, "python3", "receiver.py", "0")
}

func startPHPExample(t *testing.T, env ...string) *example {
	t.Helper()
	return startExample(t, "../examples/php", env, "php", "-S", freeAddress(t), "receiver.php")
}

func startRubyExample(t *testing.T, env ...string) *example {
	t.Helper()
	return startExample(t, "../examples/ruby", env, "puma", "-b", "tcp://"+freeAddress(t), "config.ru")
}

func startDatabaseExample(t *testing.T, env ...string) *example {
	t.Helper()
	if _, err := os.Stat("../examples/database/node_modules/better-sqlite3"); err != nil {
		t.Fatalf("better-sqlite3 is not installed; run `make node`: %v", err)
	}
	return startExample(t, "../examples/database", env, "node", "server.js")
}

// example is a receiver of examples/ that runs.
type example struct {
	address string // http://127.0.0.1:port
	url     string // of its webhook
	stop    func()

	mu    sync.Mutex
	lines []string // guarded by mu: what it has printed
}

var listeningAddress = regexp.MustCompile(`http://127\.0\.0\.1:\d+`)

// startExample runs a receiver that prints its address when it listens. It ends
// with the test.
func startExample(t *testing.T, dir string, env []string, program string, args ...string) *example {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("%v; as root, `make test` installs it", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "PORT=0", "USERHERO_WEBHOOK_SECRET="+secret), env...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout // the write end of the same pipe
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	e := &example{}
	listening := make(chan string, 1)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20) // they print the messages that arrive
		for lines.Scan() {
			e.mu.Lock()
			e.lines = append(e.lines, lines.Text())
			e.mu.Unlock()
			if address := listeningAddress.FindString(lines.Text()); address != "" && len(listening) == 0 {
				listening <- address
			}
		}
	}()
	e.stop = sync.OnceFunc(func() {
		cancel()
		<-drained
		_ = cmd.Wait()
		showLog(t, filepath.Base(program), strings.Join(e.lines, "\n")+"\n")
	})
	t.Cleanup(e.stop)
	select {
	case e.address = <-listening:
		e.url = e.address + "/webhook/userhero"
	case <-drained:
		t.Fatalf("%s %v ended before it listened:\n%s", program, args, strings.Join(e.lines, "\n"))
	case <-time.After(20 * time.Second):
		t.Fatalf("%s %v does not listen", program, args)
	}
	eventually(t, 10*time.Second, program+" takes connections", func() bool { // Go's says that it listens before it does
		connection, err := net.Dial("tcp", strings.TrimPrefix(e.address, "http://"))
		return err == nil && connection.Close() == nil
	})
	return e
}

// handled returns how often the receiver has handled an event of a feedback.
func (e *example) handled(feedbackID string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, line := range e.lines {
		if strings.Contains(line, "eceived") && strings.Contains(line, feedbackID) {
			n++
		}
	}
	return n
}

// deliver sends a body to the receiver as the relay does, and returns the answer,
// whose body is closed.
func (e *example) deliver(t *testing.T, delivery string, attempt int, body string) *http.Response {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, e.url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	timestamp := strconv.FormatInt(time.Now().Unix(), 10)
	for name, value := range map[string]string{
		"Content-Type":         "application/json",
		"Accept":               "*/*",
		"User-Agent":           "UserHero-Relay/0",
		"X-UserHero-Signature": signature([]byte(body)),
		"X-UserHero-Event":     "feedback.created",
		"X-UserHero-Delivery":  delivery,
		"X-UserHero-Attempt":   strconv.Itoa(attempt),
		"webhook-id":           delivery,
		"webhook-timestamp":    timestamp,
		"webhook-signature":    "v1," + base64HMAC(secret, []byte(delivery+"."+timestamp+"."+body)),
	} {
		request.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	return response
}
