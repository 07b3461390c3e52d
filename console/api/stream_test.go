package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/userhero/relay/console/api"
)

// heard is one event of a stream, or a comment.
type heard struct {
	id, kind string
	data     map[string]any
	comment  string
}

// listen reads a stream until it ends, and closes the channel then.
func listen(ctx context.Context, t *testing.T, url, lastEventID string) <-chan heard {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if lastEventID != "" {
		r.Header.Set("Last-Event-ID", lastEventID)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if got := response.Header.Get("Content-Type"); response.StatusCode != http.StatusOK || got != "text/event-stream" {
		t.Fatalf("%s %s", response.Status, got)
	}
	out := make(chan heard, 1000)
	go func() {
		defer close(out)
		defer func() { _ = response.Body.Close() }()
		var h heard
		for lines := bufio.NewScanner(response.Body); lines.Scan(); {
			switch name, value, _ := strings.Cut(lines.Text(), ": "); {
			case lines.Text() == "":
				out <- h
				h = heard{}
			case name == "":
				h.comment = value
			case name == "id":
				h.id = value
			case name == "event":
				h.kind = value
			case name == "data":
				if err := json.Unmarshal([]byte(value), &h.data); err != nil {
					t.Errorf("%v in %q", err, value)
				}
			}
		}
	}()
	return out
}

// next waits for an event of a kind.
func next(t *testing.T, stream <-chan heard, kind string) heard {
	t.Helper()
	return nextOf(t, stream, kind)[kind]
}

// nextOf waits for an event of each kind, in whatever order they come.
func nextOf(t *testing.T, stream <-chan heard, kinds ...string) map[string]heard {
	t.Helper()
	found := make(map[string]heard)
	for end := time.After(30 * time.Second); ; {
		select {
		case h, open := <-stream:
			if !open {
				t.Fatalf("the stream ended before all of %q", kinds)
			}
			if slices.Contains(kinds, h.kind) {
				found[h.kind] = h
			}
			if len(found) == len(kinds) {
				return found
			}
		case <-end:
			t.Fatalf("not all of %q, but %v", kinds, found)
		}
	}
}

// served is the API on a server with a time limit for answers, such as
// operators set.
func (f *fixture) served(t *testing.T, o api.Options) string {
	t.Helper()
	o.Relay = f.relay
	server := httptest.NewUnstartedServer(api.New(o))
	server.Config.WriteTimeout = 200 * time.Millisecond
	server.Start()
	t.Cleanup(server.Close)
	return server.URL
}

func TestStreamTellsWhatHappens(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	url := f.served(t, api.Options{Heartbeat: 300 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	stream := listen(ctx, t, url+"/stream", "")
	for beats := 0; beats < 2; { // beyond the server's time limit
		h, open := <-stream
		if !open {
			t.Fatal("the server's time limit ended the stream")
		}
		if h.comment == "still here" {
			beats++
		}
	}
	f.accept(t, "fb_1")
	both := nextOf(t, stream, "accepted", "attempt")
	accepted, attempt := both["accepted"], both["attempt"]
	if accepted.data["feedback_id"] != "fb_1" || accepted.data["type"] != "feedback.created" || accepted.data["deliveries"] != 1.0 || accepted.id == "" {
		t.Errorf("accepted: %+v", accepted)
	}
	if attempt.data["webhook"] != "erp" || attempt.data["state"] != "retrying" || attempt.data["number"] != 1.0 ||
		attempt.data["error_class"] != "egress" || attempt.data["next_attempt_at"] == nil || attempt.data["event_id"] != accepted.data["event_id"] {
		t.Errorf("attempt: %+v", attempt)
	}
	if attempt.id == accepted.id {
		t.Errorf("two events have the id %s", attempt.id)
	}
	if err := f.relay.Disable(t.Context(), "erp", "ada"); err != nil {
		t.Fatal(err)
	}
	if state := next(t, stream, "state"); state.data["webhook"] != "erp" || state.data["from"] != "active" || state.data["to"] != "disabled" {
		t.Errorf("state: %+v", state)
	}
	if activity := next(t, stream, "activity"); activity.data["who"] != "ada" || activity.data["what"] != "webhook disabled" {
		t.Errorf("activity: %+v", activity)
	}
	cancel()

	// What happened between two streams is in no stream, and that is said.
	again := listen(t.Context(), t, url+"/stream", attempt.id)
	if lost := next(t, again, "lost"); lost.data["since"] != attempt.id {
		t.Errorf("lost: %+v", lost)
	}
}

func TestStreamEndsWhenTheServerIsToEnd(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var ending atomic.Bool
	stream := listen(t.Context(), t, f.served(t, api.Options{Ending: ending.Load})+"/stream", "")
	<-stream
	ending.Store(true)
	for range stream { // it ends, or the test's time does
	}
	stream = listen(t.Context(), t, f.served(t, api.Options{})+"/stream", "")
	if err := f.relay.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range stream { // it ends, or the test's time does
	}
}

func TestStreamsAreBounded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	url := f.served(t, api.Options{}) + "/stream"
	for range 64 {
		listen(t.Context(), t, url, "")
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Content-Type") != "application/problem+json" || response.Header.Get("Retry-After") == "" {
		t.Errorf("one too many: %s %v", response.Status, response.Header)
	}
}
