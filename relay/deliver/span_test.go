package deliver

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// recording returns a tracer and an exporter that has each span when it ends.
func recording(t *testing.T) (trace.Tracer, *tracetest.InMemoryExporter) {
	t.Helper()
	spans := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	t.Cleanup(func() {
		if err := provider.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return provider.Tracer("test"), spans
}

// requests returns the `POST` spans in the order they began.
func requests(spans *tracetest.InMemoryExporter) []tracetest.SpanStub {
	var posts []tracetest.SpanStub
	for _, s := range spans.GetSpans() {
		if s.Name == "POST" {
			posts = append(posts, s)
		}
	}
	return posts
}

func attributeOf(s tracetest.SpanStub, key attribute.Key) string {
	for _, a := range s.Attributes {
		if a.Key == key {
			return a.Value.String()
		}
	}
	return ""
}

// TestRequestSpansTellFailuresApart: each request of an attempt has a span, with a
// class that shows where it failed.
func TestRequestSpansTellFailuresApart(t *testing.T) {
	t.Parallel()
	const quick = 300 * time.Millisecond
	answering, _ := rawServer(t, func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") })
	redirecting, _ := rawServer(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n")
	})
	hanging, _ := rawServer(t, func(net.Conn) { time.Sleep(2 * quick) })
	dripping, _ := rawServer(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nbegins")
		time.Sleep(2 * quick)
	})
	breaking, _ := rawServer(t, func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nends") })
	resetting, _ := rawServer(t, func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) })
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refusing := "http://" + closed.Addr().String() + "/"
	_ = closed.Close()
	unknown := roundTripperFunc(func(*http.Request) (*http.Response, error) {
		return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "nowhere.example", IsNotFound: true}}
	})

	for _, c := range []struct {
		name, url string
		transport http.RoundTripper // nil means the real one
		class     string            // error.type; empty means none
		status    string
		tries     int
		events    string
	}{
		{"answered", answering, nil, "", "200", 1, "connect start, connect done, request written, first byte"},
		{"a redirect", redirecting, nil, "302", "302", 1, "connect start, connect done, request written, first byte"},
		{"refused", refusing, nil, "refused", "", 1 + wireRetries, "connect start, connect done"},
		{"reset", resetting, nil, "reset", "", 1, "connect start, connect done, request written"},
		{"no TLS there", strings.Replace(answering, "http:", "https:", 1), nil, "tls", "", 1, "connect start, connect done, tls start, tls done"},
		{"no answer", hanging, nil, "timeout", "", 1, "connect start, connect done, request written"},
		{"half an answer in time", dripping, nil, "timeout", "200", 1, "connect start, connect done, request written, first byte"},
		{"an answer that breaks off", breaking, nil, "reset", "200", 1, "connect start, connect done, request written, first byte"},
		{"no such name", "http://nowhere.example/", unknown, "dns", "", 1, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tracer, spans := recording(t)
			cl, err := NewClient(Egress{Allow: []string{"127.0.0.1"}}, Options{Transport: c.transport})
			if err != nil {
				t.Fatal(err)
			}
			timeout := quick
			if c.tries > 1 {
				timeout = 30 * time.Second // for the pauses between them
			}
			to, err := cl.Receiver(Config{URL: c.url + "?token=canary", Timeout: timeout})
			if err != nil {
				t.Fatal(err)
			}
			ctx, span := tracer.Start(t.Context(), "attempt")
			a, _ := to.Attempt(ctx, Message{ID: "dlv_1", Type: "feedback.created", Number: 1, Body: []byte(`{}`), Tracer: tracer, Started: time.Now()})
			span.End()

			posts := requests(spans)
			if len(posts) != c.tries {
				t.Fatalf("%d requests, want %d: %+v", len(posts), c.tries, posts)
			}
			for i, p := range posts {
				resend := ""
				if i > 0 {
					resend = fmt.Sprint(i)
				}
				if got := attributeOf(p, "http.request.resend_count"); got != resend {
					t.Errorf("request %d: resend_count %q", i, got)
				}
				if got := attributeOf(p, "error.type"); got != c.class || (p.Status.Code == codes.Error) != (c.class != "") {
					t.Errorf("error.type %q and status %v, want %q", got, p.Status, c.class)
				}
				if got := attributeOf(p, "http.response.status_code"); got != c.status {
					t.Errorf("status %q, want %q", got, c.status)
				}
				var events []string
				for _, e := range p.Events {
					events = append(events, e.Name)
				}
				if got := strings.Join(events, ", "); got != c.events {
					t.Errorf("events %q, want %q", got, c.events)
				}
				if p.Parent.SpanID() != span.SpanContext().SpanID() || p.SpanKind != trace.SpanKindClient {
					t.Errorf("%+v is no client span below the attempt's", p)
				}
			}
			last := posts[len(posts)-1].SpanContext
			for _, h := range a.RequestHeaders {
				if want := string(appendTraceparent(nil, last.TraceID(), last.SpanID(), 1)); h.Name == headerTraceparent && h.Value != want {
					t.Errorf("the attempt log has the traceparent %q, want the last request's %q", h.Value, want)
				}
			}
			if text := fmt.Sprintf("%+v", spans.GetSpans()); strings.Contains(text, "canary") {
				t.Errorf("the query is in %s", text)
			}
		})
	}
}

// TestRequestSpansDoNotMix: with many attempts over open connections, each has its own
// span, and its receiver gets the id of that span.
func TestRequestSpansDoNotMix(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	received := make(map[string]bool)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		received[r.Header.Get("X-UserHero-Delivery")+" "+r.Header.Get("Traceparent")] = true
	}))
	t.Cleanup(receiver.Close)
	tracer, spans := recording(t)
	to := targetFor(t, Config{URL: receiver.URL, Secret: "s", Timeout: time.Minute, Header: http.Header{"authorization": {"canary"}}}, Egress{Allow: []string{"127.0.0.1"}})
	var all sync.WaitGroup
	const workers, each = 8, 50
	for w := range workers {
		all.Go(func() {
			for i := range each {
				id := fmt.Sprintf("dlv_%d_%d", w, i)
				ctx, span := tracer.Start(context.Background(), "attempt", trace.WithAttributes(attribute.String("userhero.delivery.id", id)))
				_, _ = to.Attempt(ctx, Message{ID: id, Type: "feedback.created", Number: 1, Body: []byte(`{}`), Tracer: tracer, Started: time.Now()})
				span.End()
			}
		})
	}
	all.Wait()
	attempts, reused := make(map[trace.SpanID]string), 0
	for _, s := range spans.GetSpans() {
		if s.Name == "attempt" {
			attempts[s.SpanContext.SpanID()] = attributeOf(s, "userhero.delivery.id")
		}
	}
	for _, p := range requests(spans) {
		if told := attempts[p.Parent.SpanID()] + " " + string(appendTraceparent(nil, p.SpanContext.TraceID(), p.SpanContext.SpanID(), 1)); !received[told] {
			t.Errorf("the receiver was not told %s", told)
		}
		delete(attempts, p.Parent.SpanID())
		happened := 4
		if attributeOf(p, "userhero.connection.reused") == "true" {
			happened = 2
			reused++
		}
		if len(p.Events) != happened || len(p.Attributes) != 9 {
			t.Errorf("%d events and the attributes %v", len(p.Events), p.Attributes)
		}
	}
	if len(attempts) != 0 || reused < workers*each/2 {
		t.Errorf("%d attempts have no request; %d requests went over open connections", len(attempts), reused)
	}
}

type roundTripperFunc func(*http.Request) (*http.Response, error)

func (f roundTripperFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestSpansHideThePathThatIsTheSecret(t *testing.T) {
	t.Parallel()
	to, err := url.Parse("https://hooks.slack.com/services/T0/B0/s3cret?also=s3cret")
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprint(describe(to)); strings.Contains(text, "s3cret") || strings.Count(text, "https://hooks.slack.com/...") != 1 {
		t.Errorf("written: %s", text)
	}
}
