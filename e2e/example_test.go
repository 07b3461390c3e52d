package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestExampleReceiversVerifyWhatArrives: the receivers in Go and Python, as
// they are in examples/, accept what the relay sends and nothing else.
func TestExampleReceiversVerifyWhatArrives(t *testing.T) {
	t.Parallel()
	receivers := map[string]string{"go": startGoExample(t), "python": startPythonExample(t)}
	var webhooks strings.Builder
	for name, url := range receivers {
		fmt.Fprintf(&webhooks, "webhook %s {\n url %s\n secret %s\n retry 1h\n}\n", name, url, secret)
	}
	s := startRelay(t, relayOptions{app: webhooks.String()})
	for name, url := range receivers {
		mustRefuseWrongSignatures(t, s, name, url)
	}
	s.mustSubmit("Grüße, 日本 & <b>\u2028 👋")
	s.mustSubmit("again")
	for name := range receivers {
		eventually(t, 10*time.Second, name+" has accepted both", func() bool { return s.webhook(name).Counts.Delivered == 2 })
	}
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
// folder, and returns the URL of its webhook.
func startExpress(t *testing.T, version string) string {
	t.Helper()
	modules, err := filepath.Abs(filepath.Join(version, "node_modules"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(modules, "express")); err != nil {
		t.Fatalf("%s is not installed; run `make node`: %v", version, err)
	}
	code, err := os.ReadFile(filepath.Join("..", "examples", "express", "server.js"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "server.js"), code, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(modules, filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	return startExample(t, dir, "node", "server.js")
}

func startGoExample(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	built := filepath.Join(dir, "receiver")
	if out, err := exec.Command("go", "build", "-o", built, "../examples/go").CombinedOutput(); err != nil {
		t.Fatalf("building the example: %v\n%s", err, out)
	}
	return startExample(t, dir, built, "-listen", freeAddress(t))
}

func startPythonExample(t *testing.T) string {
	t.Helper()
	return startExample(t, filepath.Join("..", "examples", "python"), "python3", "receiver.py", "0")
}

// startExample runs a receiver that prints "listening on URL" when it does,
// and returns the URL. It ends with the test.
func startExample(t *testing.T, dir, program string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("%v; as root, `make test` installs it", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PORT=0", "USERHERO_WEBHOOK_SECRET="+secret)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout // the write end of the same pipe
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	listening := make(chan string, 1)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20) // they print the messages that arrive
		for lines.Scan() {
			if _, url, ok := strings.Cut(lines.Text(), "istening on "); ok && len(listening) == 0 {
				listening <- url
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-drained
		_ = cmd.Wait()
	})
	select {
	case url := <-listening:
		return url
	case <-drained:
		t.Fatalf("%s %v ended before it listened", program, args)
	case <-time.After(20 * time.Second):
		t.Fatalf("%s %v does not listen", program, args)
	}
	return ""
}
