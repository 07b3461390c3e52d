// Package otlpsink takes in what is exported by OTLP, in the test's own process:
// spans over HTTP and gRPC, as a collector would, and the names of metrics.
//
// It promises that what it shows was exported, decoded by the published protocol
// definitions and acknowledged; it knows nothing of who made it.
package otlpsink

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	metrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// Span is one exported span.
type Span struct {
	Name, Kind                string // Kind is "producer", "consumer", "client", "server" or "internal"
	TraceID, SpanID, ParentID string // lower-case hex; ParentID is empty at a root
	TraceState                string
	Failed                    bool // its status is Error
	Start, End                time.Time
	Attributes                map[string]string
	Links                     []Link
	Events                    []Event
	Service, Scope            string // service.name of the resource, name of the instrumentation
}

// Link is a span's reference to another.
type Link struct{ TraceID, SpanID string }

// Event is something that happened during a span.
type Event struct {
	Name string
	At   time.Time
}

// LinksTo tells whether the span has a link to another.
func (s Span) LinksTo(other Span) bool {
	for _, l := range s.Links {
		if l.TraceID == other.TraceID && l.SpanID == other.SpanID {
			return true
		}
	}
	return false
}

// Receiver takes spans in until it is closed.
type Receiver struct {
	// HTTP is an OTEL_EXPORTER_OTLP_ENDPOINT for the protocol http/protobuf, GRPC
	// one for grpc.
	HTTP, GRPC string

	collector.UnimplementedTraceServiceServer
	server  *http.Server
	grpc    *grpc.Server
	serving sync.WaitGroup

	mu sync.Mutex
	// mu guards everything declared below.
	all     []Span
	metrics map[string]bool
	changed chan struct{} // closed and replaced at each arrival
	refuse  bool
}

// Start starts a receiver on free ports of 127.0.0.1.
func Start(ctx context.Context) (*Receiver, error) {
	var lc net.ListenConfig
	web, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for OTLP over HTTP: %w", err)
	}
	rpc, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		_ = web.Close()
		return nil, fmt.Errorf("listening for OTLP over gRPC: %w", err)
	}
	r := &Receiver{
		HTTP: "http://" + web.Addr().String(), GRPC: "http://" + rpc.Addr().String(),
		metrics: make(map[string]bool), changed: make(chan struct{}), grpc: grpc.NewServer(),
	}
	r.server = &http.Server{Handler: http.HandlerFunc(r.serveHTTP), ReadHeaderTimeout: 10 * time.Second}
	collector.RegisterTraceServiceServer(r.grpc, r)
	r.serving.Go(func() { _ = r.server.Serve(web) })
	r.serving.Go(func() { _ = r.grpc.Serve(rpc) })
	return r, nil
}

// Close ends the receiver.
func (r *Receiver) Close() {
	_ = r.server.Close()
	r.grpc.Stop()
	r.serving.Wait()
}

// Refuse makes the receiver answer as one that is overloaded, or no longer.
func (r *Receiver) Refuse(refuse bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuse = refuse
}

// All is every span that has arrived, in the order of their ends.
func (r *Receiver) All() []Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Span(nil), r.all...)
}

// Await waits until the spans satisfy a condition, and returns them; with false
// the time ran out.
func (r *Receiver) Await(within time.Duration, holds func([]Span) bool) ([]Span, bool) {
	deadline := time.After(within)
	for {
		r.mu.Lock()
		all, changed := append([]Span(nil), r.all...), r.changed
		r.mu.Unlock()
		if holds(all) {
			return all, true
		}
		select {
		case <-changed:
		case <-deadline:
			return all, false
		}
	}
}

func (r *Receiver) serveHTTP(w http.ResponseWriter, request *http.Request) {
	body := io.Reader(request.Body)
	if request.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(request.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = unzipped
	}
	var buf bytes.Buffer
	_, err := buf.ReadFrom(io.LimitReader(body, 64<<20))
	var answer proto.Message
	switch {
	case err != nil:
	case request.URL.Path == "/v1/traces":
		var export collector.ExportTraceServiceRequest
		if err = proto.Unmarshal(buf.Bytes(), &export); err == nil {
			answer, err = r.Export(request.Context(), &export)
		}
	case request.URL.Path == "/v1/metrics":
		var export metrics.ExportMetricsServiceRequest
		if err = proto.Unmarshal(buf.Bytes(), &export); err == nil {
			r.note(&export)
			answer = new(metrics.ExportMetricsServiceResponse)
		}
	default:
		err = fmt.Errorf("no exports are taken at %s", request.URL.Path)
	}
	var encoded []byte
	if err == nil {
		encoded, err = proto.Marshal(answer)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest) // which no exporter tries again
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	_, _ = w.Write(encoded)
}

// note keeps the names of the metrics.
func (r *Receiver) note(export *metrics.ExportMetricsServiceRequest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, resource := range export.GetResourceMetrics() {
		for _, scope := range resource.GetScopeMetrics() {
			for _, m := range scope.GetMetrics() {
				r.metrics[m.GetName()] = true
			}
		}
	}
}

// HasMetric tells whether a metric of that name has arrived.
func (r *Receiver) HasMetric(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.metrics[name]
}

// Export implements the service of OTLP.
func (r *Receiver) Export(_ context.Context, export *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse {
		return nil, errors.New("refused")
	}
	for _, resource := range export.GetResourceSpans() {
		service := attributes(resource.GetResource().GetAttributes())["service.name"]
		for _, scope := range resource.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				flat := flatten(s)
				flat.Service, flat.Scope = service, scope.GetScope().GetName()
				r.all = append(r.all, flat)
			}
		}
	}
	close(r.changed)
	r.changed = make(chan struct{})
	return &collector.ExportTraceServiceResponse{}, nil
}

func flatten(s *otlp.Span) Span {
	flat := Span{
		Name:    s.GetName(),
		Kind:    strings.ToLower(strings.TrimPrefix(s.GetKind().String(), "SPAN_KIND_")),
		TraceID: hex.EncodeToString(s.GetTraceId()), SpanID: hex.EncodeToString(s.GetSpanId()), ParentID: hex.EncodeToString(s.GetParentSpanId()),
		TraceState: s.GetTraceState(),
		Failed:     s.GetStatus().GetCode() == otlp.Status_STATUS_CODE_ERROR,
		Start:      time.Unix(0, int64(s.GetStartTimeUnixNano())), End: time.Unix(0, int64(s.GetEndTimeUnixNano())),
		Attributes: attributes(s.GetAttributes()),
	}
	for _, l := range s.GetLinks() {
		flat.Links = append(flat.Links, Link{hex.EncodeToString(l.GetTraceId()), hex.EncodeToString(l.GetSpanId())})
	}
	for _, e := range s.GetEvents() {
		flat.Events = append(flat.Events, Event{e.GetName(), time.Unix(0, int64(e.GetTimeUnixNano()))})
	}
	return flat
}

func attributes(list []*common.KeyValue) map[string]string {
	m := make(map[string]string, len(list))
	for _, kv := range list {
		switch v := kv.GetValue().GetValue().(type) {
		case *common.AnyValue_StringValue:
			m[kv.GetKey()] = v.StringValue
		case *common.AnyValue_IntValue:
			m[kv.GetKey()] = strconv.FormatInt(v.IntValue, 10)
		case *common.AnyValue_BoolValue:
			m[kv.GetKey()] = strconv.FormatBool(v.BoolValue)
		default:
			m[kv.GetKey()] = kv.GetValue().String()
		}
	}
	return m
}
