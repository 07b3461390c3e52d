package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestStreamOutlivesReloadsAndHoldsNoStopUp: Caddy waits for requests under way
// before it tells an app to stop, and a stream is such a request.
func TestStreamOutlivesReloadsAndHoldsNoStopUp(t *testing.T) {
	t.Parallel()
	r := startReceiver(t, nil)
	s := startRelay(t, relayOptions{app: fmt.Sprintf("webhook app {\n url %s\n}", r.url)})
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.admin+"/userhero/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	lines := make(chan string, 1000)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(response.Body); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()
	// await waits until each of some kinds of event has told of something; the one
	// of an acceptance may come after that of its first attempt.
	await := func(data string, kinds ...string) {
		t.Helper()
		event, heard := "", make(map[string]bool)
		for end := time.After(20 * time.Second); ; {
			select {
			case line, open := <-lines:
				if !open {
					t.Fatalf("the stream ended before all of %q", kinds)
				}
				if name, ok := strings.CutPrefix(line, "event: "); ok {
					event = name
				}
				if slices.Contains(kinds, event) && strings.Contains(line, data) {
					heard[event] = true
				}
				if len(heard) == len(kinds) {
					return
				}
			case <-end:
				t.Fatalf("the stream tells of %v with %s, and not of all of %q", heard, data, kinds)
			}
		}
	}
	await(": connected", "")
	id := s.mustSubmit("before the reload")
	await(id, "accepted", "attempt")
	if err := s.reload(s.caddyfile(s.options)); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the relay answers after the reload", func() bool {
		_, _, err := caddyCommand(t.Context(), s, "", "status")
		return err == nil
	})
	id = s.mustSubmit("after the reload")
	await(id, "attempt")

	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second) // grace_period is 5 s
	defer cancel()
	if err := s.process.Stop(ctx); err != nil {
		t.Error(err)
	}
	for range lines { // it ends with the process
	}
	s.start() // the test's end stops it
}

// TestStreamOfTheConsoleEndsWithItsConfiguration: who may come in is asked anew.
func TestStreamOfTheConsoleEndsWithItsConfiguration(t *testing.T) {
	t.Parallel()
	s := startRelay(t, relayOptions{site: "handle_path /relay/* {\n userhero_console {\n no_auth\n }\n}"})
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.site+"/relay/api/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	lines := bufio.NewScanner(response.Body)
	if !lines.Scan() || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %v", response.Status, lines.Err())
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for lines.Scan() { // until it ends
		}
	}()
	select {
	case <-ended:
		t.Fatal("the stream ends by itself")
	case <-time.After(time.Second):
	}
	if err := s.reload(s.caddyfile(s.options)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("the stream goes on under a configuration that is gone")
	}
}
