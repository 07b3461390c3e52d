package caddymodule

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/caddymodule/telemetry"
	"github.com/userhero/relay/e2e/otlpsink"
)

// traced sets the variables with which an operator exports spans to a collector, and
// returns the collector. Spans are exported soon after they end.
func traced(t *testing.T, protocol string) *otlpsink.Receiver {
	t.Helper()
	r, err := otlpsink.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	endpoint := r.HTTP
	if protocol == "grpc" {
		endpoint = r.GRPC
	}
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
	return r
}

// named waits for n spans with a name and returns them in order of their start.
func named(t *testing.T, r *otlpsink.Receiver, name string, n int) []otlpsink.Span {
	t.Helper()
	var found []otlpsink.Span
	all, ok := r.Await(20*time.Second, func(all []otlpsink.Span) bool {
		found = nil
		for _, s := range all {
			if s.Name == name {
				found = append(found, s)
			}
		}
		return len(found) >= n
	})
	if !ok {
		t.Fatalf("no %d spans %q in %+v", n, name, all)
	}
	slices.SortFunc(found, func(a, b otlpsink.Span) int { return a.Start.Compare(b.Start) })
	return found
}

const (
	clientTraceID = "4bf92f3577b34da6a3ce929d0e0e4736"
	clientSpanID  = "00f067aa0ba902b7"
)

func TestOneTraceFromTheRequestToTheReceiver(t *testing.T) {
	for _, protocol := range []string{"http/protobuf", "grpc"} {
		t.Run(protocol, func(t *testing.T) {
			r := traced(t, protocol)
			t.Setenv("OTEL_SERVICE_NAME", "front door")
			s, h := newSite(t), newHook(t)
			s.load(fmt.Sprintf("webhook crm {\nurl %s/hooks/in?token=canary\nsecret s3cret\nheader Authorization \"Bearer canary\"\n}\n", h.URL), "tracing\n"+directive)
			if a := s.post(`{"message":"canary"}`, "traceparent", "00-"+clientTraceID+"-"+clientSpanID+"-01", "tracestate", "vendor=opaque"); a.Status != http.StatusAccepted {
				t.Fatalf("%d %s", a.Status, a.Body)
			}
			arrived := h.await(t, 1)[0]
			post, process, send, request := named(t, r, "POST", 1)[0], named(t, r, "process feedback", 1)[0], named(t, r, "send feedback", 1)[0], named(t, r, "handler", 1)[0]

			for parent, child := range map[*otlpsink.Span]otlpsink.Span{&request: send, &send: process, &process: post} {
				if child.ParentID != parent.SpanID || child.TraceID != clientTraceID {
					t.Errorf("%s is no child of %s in the client's trace: %+v", child.Name, parent.Name, child)
				}
			}
			if request.ParentID != clientSpanID || len(send.Links) != 0 {
				t.Errorf("Caddy has taken the client's span as parent of %+v; %+v should be joined to it alone", request, send)
			}
			if !process.LinksTo(send) {
				t.Errorf("the first attempt does not link to the creation: %+v", process)
			}
			for kind, span := range map[string]otlpsink.Span{"producer": send, "consumer": process, "client": post} {
				if span.Kind != kind || span.Failed || span.Service != "front door" || span.Scope != telemetry.Scope || span.TraceState != "vendor=opaque" {
					t.Errorf("%s: %+v", kind, span)
				}
			}
			if want := "00-" + post.TraceID + "-" + post.SpanID + "-01"; arrived.Header.Get("Traceparent") != want || arrived.Header.Get("Tracestate") != "vendor=opaque" {
				t.Errorf("the receiver got traceparent %q, tracestate %q; want %q", arrived.Header.Get("Traceparent"), arrived.Header.Get("Tracestate"), want)
			}
			delivery := s.api("/deliveries").json(t)["items"].([]any)[0].(map[string]any)["id"].(string)
			// The settlement is in a later commit.
			logged := s.api("/deliveries/" + delivery).Body
			for deadline := time.Now().Add(20 * time.Second); !strings.Contains(logged, `"state":"delivered"`) && time.Now().Before(deadline); {
				time.Sleep(10 * time.Millisecond)
				logged = s.api("/deliveries/" + delivery).Body
			}
			if !strings.Contains(logged, post.SpanID) || !strings.Contains(logged, `"trace_id":"`+clientTraceID) {
				t.Errorf("the attempt log has another traceparent: %s", logged)
			}
			for span, want := range map[*otlpsink.Span]map[string]string{
				&send: {
					"messaging.system": "userhero", "messaging.operation.name": "send", "messaging.operation.type": "send",
					"messaging.destination.name": "feedback", "userhero.event.type": "feedback.created", "userhero.event.deliveries": "1",
				},
				&process: {
					"messaging.system": "userhero", "messaging.operation.name": "process", "messaging.operation.type": "process",
					"messaging.destination.name": "feedback", "messaging.destination.subscription.name": "crm",
					"messaging.message.id": send.Attributes["messaging.message.id"], "userhero.delivery.id": delivery,
					"messaging.message.conversation_id": send.Attributes["messaging.message.conversation_id"],
					"userhero.attempt":                  "1", "userhero.delivery.state": "delivered",
				},
				&post: {
					"http.request.method": "POST", "http.response.status_code": "204", "url.full": h.URL + "/hooks/in",
					"server.address": "127.0.0.1", "server.port": h.URL[strings.LastIndex(h.URL, ":")+1:],
					"network.peer.address": "127.0.0.1", "network.protocol.version": "1.1",
				},
			} {
				for name, value := range want {
					if got := span.Attributes[name]; got != value || value == "" {
						t.Errorf("%s: %s is %q, want %q", span.Name, name, got, value)
					}
				}
			}
			for _, span := range r.All() {
				if span.Name != "handler" && strings.Contains(fmt.Sprint(span), "canary") {
					t.Errorf("a secret or the payload is in %+v", span)
				}
			}
			var happened []string
			for _, e := range post.Events {
				happened = append(happened, e.Name)
			}
			if want := []string{"connect start", "connect done", "request written", "first byte"}; !slices.Equal(happened, want) {
				t.Errorf("the request's timings are %v, want %v", happened, want)
			}
		})
	}
}

func TestRetriesAreTracesOfTheirOwnThatLinkBack(t *testing.T) {
	r := traced(t, "http/protobuf")
	t.Setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
	t.Setenv("OTEL_TRACES_SAMPLER_ARG", "0")
	s, h := newSite(t), newHook(t)
	h.status = http.StatusServiceUnavailable
	s.load(webhookTo(h)+"retry 20ms 20ms 20ms\n", directive)
	s.post(`{"message":"not sampled"}`)
	h.await(t, 4)
	s.post(`{"message":"sampled"}`, "traceparent", "00-"+clientTraceID+"-"+clientSpanID+"-01")
	// The webhook is failing and is probed, so attempts come one after another.
	attempts := named(t, r, "process feedback", 4)
	send := named(t, r, "send feedback", 1)[0]
	if len(send.Links) != 1 || send.Links[0] != (otlpsink.Link{TraceID: clientTraceID, SpanID: clientSpanID}) || send.ParentID != "" || send.TraceID == clientTraceID {
		t.Errorf("what a client says of its trace is a link and no more; this is %+v", send)
	}
	traces := make(map[string]bool)
	for i, a := range attempts {
		if !a.LinksTo(send) || !a.Failed || a.Attributes["error.type"] != "http_503" || a.Attributes["userhero.attempt"] != fmt.Sprint(i+1) {
			t.Errorf("attempt %d: %+v", i+1, a)
		}
		if i > 0 && (a.ParentID != "" || a.TraceID == send.TraceID || !a.LinksTo(attempts[i-1]) || traces[a.TraceID]) {
			t.Errorf("retry %d is no new root that links to the attempt before: %+v", i, a)
		}
		traces[a.TraceID] = true
	}
	posts := named(t, r, "POST", 4)
	for i, p := range posts {
		if p.ParentID != attempts[i].SpanID || p.Attributes["error.type"] != "503" || !p.Failed {
			t.Errorf("the request of attempt %d: %+v", i+1, p)
		}
	}
	if all := r.All(); len(all) != 9 {
		t.Errorf("%d spans, want those of the sampled event alone: %+v", len(all), all)
	}
	if arrived := h.await(t, 8); !strings.HasSuffix(arrived[0].Header.Get("Traceparent"), "-00") {
		t.Errorf("the receiver of what is not sampled got traceparent %q", arrived[0].Header.Get("Traceparent"))
	}
}

func TestTheLastSpansAreExportedAtTheEnd(t *testing.T) {
	r := traced(t, "http/protobuf")
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
	t.Run("running", func(t *testing.T) {
		s, h := newSite(t), newHook(t)
		s.load(webhookTo(h), directive)
		s.post(`{"message":"just before the end"}`)
		h.await(t, 1)
		s.load(webhookTo(h)+"timeout 10s\n", directive) // a reload must not end the attempt
		if all := r.All(); len(all) != 0 {
			t.Errorf("a reload has exported %+v", all)
		}
	})
	if all := r.All(); len(all) != 3 {
		t.Errorf("after the end %d spans have come, want 3: %+v", len(all), all)
	}
}

func TestACollectorThatIsAwayIsLoggedOnce(t *testing.T) {
	r := traced(t, "http/protobuf")
	r.Refuse(true)
	s, h := newSite(t), newHook(t)
	s.load(webhookTo(h), directive)
	const away, back = "spans are not exported", "spans are exported again"
	for i := range 3 {
		s.post(`{"message":"unseen"}`)
		h.await(t, i+1)
		awaitLog(t, s, away)
	}
	r.Refuse(false)
	s.post(`{"message":"seen"}`)
	named(t, r, "POST", 1)
	awaitLog(t, s, back)
	if n := strings.Count(s.log(), away); n != 1 {
		t.Errorf("%d lines say that the collector is away", n)
	}
	a, err := request(http.MethodGet, "http://"+s.admin+"/metrics", "")
	if err != nil {
		t.Fatal(err)
	}
	lost := regexp.MustCompile(`"lost":(\d+)`).FindStringSubmatch(s.log())
	if lost == nil || lost[1] == "0" || !strings.Contains(a.Body, `userhero_spans_lost_total{reason="not_exported"} `+lost[1]+"\n") ||
		!strings.Contains(a.Body, `userhero_spans_lost_total{reason="queue_full"} 0`+"\n") {
		t.Errorf("the metrics do not say that %v were lost", lost)
	}
}

// TestLostSpansAreNoMetricWithoutSpans: a series that is always 0 would suggest that
// spans are made.
func TestLostSpansAreNoMetricWithoutSpans(t *testing.T) {
	s, h := newSite(t), newHook(t)
	s.load(webhookTo(h), directive)
	a, err := request(http.MethodGet, "http://"+s.admin+"/metrics", "")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(a.Body, "userhero_spans_lost") || !strings.Contains(a.Body, "userhero_queue_disk_bytes") {
		t.Errorf("the metrics are\n%s", a.Body)
	}
}

func awaitLog(t *testing.T, s *site, text string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(s.log(), text); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the log does not say %q:\n%s", text, s.log())
		}
	}
}

// TestCompressedSpansArrive: a collector can read compressed spans over both
// protocols.
func TestCompressedSpansArrive(t *testing.T) {
	for _, protocol := range []string{"http/protobuf", "grpc"} {
		t.Run(protocol, func(t *testing.T) {
			r := traced(t, protocol)
			t.Setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
			s, h := newSite(t), newHook(t)
			s.load(webhookTo(h), directive)
			for range 20 {
				s.post(`{"message":"compressed"}`)
			}
			for _, p := range named(t, r, "POST", 20) {
				if p.Attributes["http.response.status_code"] != "204" || p.Service != "userhero-relay" {
					t.Errorf("%+v", p)
				}
			}
		})
	}
}
