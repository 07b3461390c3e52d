package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/userhero/relay/e2e/otlpsink"
)

// The trace of a visitor's browser, which has decided to record it.
const (
	browserTrace  = "4bf92f3577b34da6a3ce929d0e0e4736"
	browserParent = "00-" + browserTrace + "-00f067aa0ba902b7-01"
)

func startSink(t *testing.T) *otlpsink.Receiver {
	t.Helper()
	sink, err := otlpsink.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sink.Close)
	return sink
}

// exporting is the environment of a relay whose spans go to an endpoint as soon
// as they end.
func exporting(endpoint string, more ...string) []string {
	return append([]string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + endpoint, "OTEL_BSP_SCHEDULE_DELAY=20"}, more...)
}

// submitTraced submits as a page whose browser traces it.
func (s *relayServer) submitTraced(message, traceparent string) {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, "http://"+s.site+"/feedback", strings.NewReader(fmt.Sprintf(`{"message":%q}`, message)))
	if err != nil {
		s.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Traceparent", traceparent)
	response, err := s.client.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusAccepted {
		s.t.Fatalf("submitting: %s", response.Status)
	}
}

// awaitSpans waits for n spans of a name, and returns them by the time they
// began.
func awaitSpans(t *testing.T, sink *otlpsink.Receiver, name string, n int) []otlpsink.Span {
	t.Helper()
	pick := func(all []otlpsink.Span) (picked []otlpsink.Span) {
		for _, s := range all {
			if s.Name == name {
				picked = append(picked, s)
			}
		}
		return picked
	}
	all, ok := sink.Await(30*time.Second, func(all []otlpsink.Span) bool { return len(pick(all)) >= n })
	picked := pick(all)
	if !ok {
		t.Fatalf("%d spans %q, want %d, in %+v", len(picked), name, n, all)
	}
	slices.SortFunc(picked, func(a, b otlpsink.Span) int { return a.Start.Compare(b.Start) })
	return picked
}

// TestSampledEventKeepsEveryAttempt: new traces are sampled never, the
// browser's is. Every attempt of its event is exported, the fifth retry too,
// though a SIGKILL came in between; nothing of another event is.
func TestSampledEventKeepsEveryAttempt(t *testing.T) {
	t.Parallel()
	sink := startSink(t)
	r := startReceiver(t, func(arrival) int { return http.StatusInternalServerError })
	s := startRelay(t, relayOptions{
		app:  fmt.Sprintf("retry 200ms 200ms 800ms 200ms 200ms\nwebhook app {\n url %s\n secret %s\n}", r.url, secret),
		site: "tracing",
		env:  exporting(sink.HTTP, "OTEL_TRACES_SAMPLER=parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG=0"),
	})
	s.mustSubmit("nobody has decided to record this")
	s.submitTraced("recorded", browserParent)
	awaitSpans(t, sink, "process feedback", 3)
	awaitSpans(t, sink, "POST", 3)
	// A settlement that the kill comes before is lost, and its attempt repeated.
	eventually(t, 30*time.Second, "the third attempts are settled", func() bool {
		all := s.deliveries("app")
		return len(all) == 2 && all[0].AttemptsMade >= 3 && all[1].AttemptsMade >= 3
	})
	s.killAndRestart()

	attempts := awaitSpans(t, sink, "process feedback", 6)
	posts := awaitSpans(t, sink, "POST", 6)
	send, request := awaitSpans(t, sink, "send feedback", 1)[0], awaitSpans(t, sink, "handler", 1)[0]
	if request.TraceID != browserTrace || send.TraceID != browserTrace || send.ParentID != request.SpanID {
		t.Errorf("the browser's trace does not hold %+v and its child %+v", request, send)
	}
	traces := map[string]bool{browserTrace: true}
	for i, a := range attempts {
		switch {
		case !a.LinksTo(send) || a.Attributes["userhero.attempt"] != fmt.Sprint(i+1) || !a.Failed:
			t.Errorf("attempt %d does not link to the creation: %+v", i+1, a)
		case i == 0 && (a.TraceID != browserTrace || a.ParentID != send.SpanID):
			t.Errorf("the first attempt is no child of the creation: %+v", a)
		case i > 0 && (a.ParentID != "" || traces[a.TraceID] || !a.LinksTo(attempts[i-1])):
			t.Errorf("retry %d is no new root that links to the attempt before: %+v", i, a)
		}
		traces[a.TraceID] = true
		if posts[i].ParentID != a.SpanID || posts[i].Attributes["http.response.status_code"] != "500" {
			t.Errorf("the request of attempt %d: %+v", i+1, posts[i])
		}
	}
	if state := attempts[5].Attributes["userhero.delivery.state"]; state != "failed" {
		t.Errorf("after the last attempt the delivery is %q", state)
	}
	for _, span := range sink.All() {
		if !traces[span.TraceID] {
			t.Errorf("nobody asked to record %+v", span)
		}
	}
	sampled := 0
	for _, a := range r.arrivals() {
		if strings.HasSuffix(a.trace, "-01") {
			sampled++
		}
	}
	if sampled != 6 {
		t.Errorf("%d requests told their receiver that they are sampled, want 6", sampled)
	}
}

// TestOneTraceThroughACollector: what the relay exports passes the OpenTelemetry
// Collector of the example, metrics too, and is one trace from the browser to
// the receiver.
func TestOneTraceThroughACollector(t *testing.T) {
	t.Parallel()
	sink := startSink(t)
	collector := startCollector(t, sink)
	r := startReceiver(t, nil)
	s := startRelay(t, relayOptions{
		app:    fmt.Sprintf("webhook app {\n url %s\n secret %s\n}", r.url, secret),
		site:   "tracing",
		global: "metrics {\n otlp\n}",
		env:    exporting(collector, "OTEL_METRIC_EXPORT_INTERVAL=200", "OTEL_SERVICE_NAME=userhero"),
	})
	s.submitTraced("through the collector", browserParent)
	arrived := r.await(t, 30*time.Second, "the event", func(all []arrival) bool { return len(all) == 1 })[0]

	parent := "00f067aa0ba902b7"
	for _, name := range []string{"handler", "send feedback", "process feedback", "POST"} {
		span := awaitSpans(t, sink, name, 1)[0]
		if span.TraceID != browserTrace || span.ParentID != parent || span.Service != "userhero" {
			t.Errorf("%s is not where the browser's trace goes on: %+v", name, span)
		}
		parent = span.SpanID
	}
	if want := "00-" + browserTrace + "-" + parent + "-01"; arrived.trace != want {
		t.Errorf("the receiver got the traceparent %q, want %q", arrived.trace, want)
	}
	for _, metric := range []string{"userhero_events_accepted_total", "userhero_delivery_attempt_duration_seconds", "userhero_webhook_state"} {
		eventually(t, 30*time.Second, metric+" comes by OTLP", func() bool { return sink.HasMetric(metric) })
	}
}

// startCollector runs the example's configuration, with other ports and the
// sink as its backend, and returns the endpoint for OTLP over HTTP.
func startCollector(t *testing.T, sink *otlpsink.Receiver) (endpoint string) {
	t.Helper()
	binary := os.Getenv("COLLECTOR")
	if binary == "" {
		binary = filepath.Join("..", ".bin", "collector", "collector")
	}
	binary = absolute(t, binary)
	if _, err := os.Stat(binary); err != nil {
		t.Fatalf("no collector (%v): run `make collector`, or `make e2e`", err)
	}
	address := freeAddress(t)
	log, err := os.Create(filepath.Join(t.TempDir(), "collector.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), binary,
		"--config", absolute(t, filepath.Join("..", "examples", "monitoring", "otel-collector.yml")),
		"--set", "receivers.otlp.protocols.http.endpoint="+address,
		"--set", "receivers.otlp.protocols.grpc.endpoint="+freeAddress(t),
		"--set", "processors.batch.timeout=20ms",
		"--set", "service.telemetry.metrics.level=none", // they would listen on a port of their own
	)
	cmd.Env = append(os.Environ(), "BACKEND_OTLP_ENDPOINT="+sink.HTTP)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{}) // closed when the process has been reaped
	go func() {
		err = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
			if err != nil {
				t.Errorf("the collector ended: %v", err)
			}
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
			t.Error("the collector did not stop")
		}
		showLog(t, "collector", read(t, log.Name()))
	})
	client := &http.Client{Timeout: time.Second}
	eventually(t, 30*time.Second, "the collector listens", func() bool {
		select {
		case <-ended:
			t.Fatal("the collector ended before it listened")
		default:
		}
		response, err := client.Post("http://"+address+"/v1/traces", "application/json", strings.NewReader("{}"))
		if err != nil {
			return false
		}
		_ = response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	return "http://" + address
}
