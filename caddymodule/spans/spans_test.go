package spans

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

// captured is a client that keeps what it would send, decoded from the bytes that
// would be sent.
type captured struct {
	mu sync.Mutex
	// mu guards everything declared below.
	uploads [][]*otlp.ResourceSpans
	err     error
	started error
}

func (c *captured) Start(context.Context) error { return c.started }
func (c *captured) Stop(context.Context) error  { return nil }

func (c *captured) UploadTraces(_ context.Context, all []*otlp.ResourceSpans) error {
	sent, err := proto.Marshal(&otlp.TracesData{ResourceSpans: all})
	if err != nil {
		return err
	}
	var got otlp.TracesData
	if err := proto.Unmarshal(sent, &got); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.uploads = append(c.uploads, got.GetResourceSpans())
	}
	return c.err
}

func (c *captured) failing(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

// sizes are how many spans each upload had.
func (c *captured) sizes() (sizes []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, u := range c.uploads {
		sizes = append(sizes, len(u[0].GetScopeSpans()[0].GetSpans()))
	}
	return sizes
}

// merged is everything that was sent, as if it had been one upload.
func (c *captured) merged() *otlp.ResourceSpans {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all *otlp.ResourceSpans
	for _, u := range c.uploads {
		for _, r := range u {
			if all == nil {
				all = r
				continue
			}
			all.ScopeSpans[0].Spans = append(all.ScopeSpans[0].Spans, r.GetScopeSpans()[0].GetSpans()...)
		}
	}
	return all
}

// counting makes the same ids for each tracer that has one.
type counting struct{ n uint64 }

func (c *counting) NewIDs(ctx context.Context) (t trace.TraceID, s trace.SpanID) {
	c.n++
	binary.BigEndian.PutUint64(t[:], c.n)
	return t, c.NewSpanID(ctx, t)
}

func (c *counting) NewSpanID(context.Context, trace.TraceID) (s trace.SpanID) {
	c.n++
	binary.BigEndian.PutUint64(s[:], c.n)
	return s
}

var (
	testScope = instrumentation.Scope{Name: "scope", Version: "1.2.3", SchemaURL: "https://example.com/scope", Attributes: attribute.NewSet(attribute.Int("of", 1))}
	patiently = Batching{Queue: 1000, Batch: 100, Delay: time.Hour, Timeout: time.Minute}
)

func testResource() *resource.Resource {
	return resource.NewWithAttributes("https://example.com/resource", attribute.String("service.name", "test"), attribute.StringSlice("list", []string{"a", "b"}))
}

func options(c otlptrace.Client) Options {
	return Options{
		Client: c, Resource: testResource(), Scope: testScope, Sampler: sdktrace.ParentBased(sdktrace.AlwaysSample()),
		Limits: sdktrace.NewSpanLimits(), Batching: patiently, Exported: func(int, error) {}, IDs: new(counting),
	}
}

func start(t testing.TB, o Options) *Tracer {
	t.Helper()
	made, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = made.Shutdown(context.Background()) })
	return made
}

// both runs the same with a tracer of ours and with the SDK's, and compares what
// is sent to the last field.
func both(t *testing.T, limits sdktrace.SpanLimits, sampler sdktrace.Sampler, run func(trace.Tracer)) *otlp.ResourceSpans {
	t.Helper()
	ours, theirs := new(captured), new(captured)
	o := options(ours)
	o.Limits, o.Sampler = limits, sampler
	tracer := start(t, o)
	run(tracer)
	if err := tracer.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}

	exporter, err := otlptrace.New(t.Context(), theirs)
	if err != nil {
		t.Fatal(err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter), sdktrace.WithRawSpanLimits(limits),
		sdktrace.WithSampler(sampler), sdktrace.WithResource(testResource()), sdktrace.WithIDGenerator(new(counting)))
	run(provider.Tracer(testScope.Name, trace.WithInstrumentationVersion(testScope.Version), trace.WithSchemaURL(testScope.SchemaURL),
		trace.WithInstrumentationAttributes(testScope.Attributes.ToSlice()...)))
	if err := provider.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}

	got, want := ours.merged(), theirs.merged()
	if !proto.Equal(got, want) {
		t.Errorf("sent is\n%s\nthe SDK sends\n%s", prototext.Format(got), prototext.Format(want))
	}
	return got
}

// values has one of each kind, empty ones too.
var values = []attribute.Value{
	attribute.StringValue("text"), attribute.StringValue(""), attribute.StringValue("häßlich €😀"), attribute.StringValue(strings.Repeat("long ", 5000)),
	attribute.Int64Value(-1), attribute.Int64Value(0), attribute.Int64Value(math.MaxInt64),
	attribute.BoolValue(true), attribute.BoolValue(false),
	attribute.Float64Value(-1.5), attribute.Float64Value(0), attribute.Float64Value(math.Inf(1)),
	attribute.StringSliceValue([]string{"eins", "", "dreißig"}), attribute.StringSliceValue(nil),
	attribute.Int64SliceValue([]int64{1, -2}), attribute.BoolSliceValue([]bool{true, false}), attribute.Float64SliceValue([]float64{0, 2.5}),
	attribute.ByteSliceValue([]byte("bytes\xff")), attribute.ByteSliceValue(nil),
	attribute.SliceValue(attribute.IntValue(1), attribute.StringValue("einsamkeit"), attribute.SliceValue(attribute.Value{})),
	attribute.MapValue(attribute.String("b", "beeblebrox"), attribute.Int("a", 1), attribute.Int("a", 2), attribute.Map("m", attribute.Bool("c", true))),
	attribute.MapValue(), {},
}

var (
	elsewhere = trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled, Remote: true, TraceState: mustState("vendor=opaque,other=1"),
	})
	unsampled = trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{3}, SpanID: trace.SpanID{4}, Remote: true})
	clock     = time.Unix(1_700_000_000, 123_456_789)
)

func mustState(s string) trace.TraceState {
	state, err := trace.ParseTraceState(s)
	if err != nil {
		panic(err)
	}
	return state
}

// script makes spans as its bytes say.
func script(text []byte) func(trace.Tracer) {
	return func(tracer trace.Tracer) {
		rest, now := text, clock
		next := func(n int) int {
			if len(rest) == 0 {
				return 0
			}
			b := rest[0]
			rest = rest[1:]
			return int(b) % n
		}
		at := func() trace.SpanEventOption {
			now = now.Add(time.Duration(1+next(100)) * time.Microsecond)
			return trace.WithTimestamp(now)
		}
		attributes := func() (list []attribute.KeyValue) {
			for range next(7) {
				list = append(list, attribute.KeyValue{Key: attribute.Key("key"[:next(4)]), Value: values[next(len(values))]})
			}
			return list
		}
		link := func() trace.Link {
			return trace.Link{SpanContext: []trace.SpanContext{elsewhere, unsampled, {}}[next(3)], Attributes: attributes()}
		}
		parents := []context.Context{
			context.Background(), trace.ContextWithSpanContext(context.Background(), elsewhere), trace.ContextWithRemoteSpanContext(context.Background(), unsampled),
		}
		var spans []trace.Span
		for len(rest) > 0 {
			if len(spans) == 0 || next(5) == 0 {
				options := []trace.SpanStartOption{at(), trace.WithSpanKind(trace.SpanKind(next(7))), trace.WithAttributes(attributes()...), trace.WithLinks(link(), link())}
				for range next(3) {
					options = slices.Insert(options, 2, prepare(tracer, attributes()))
				}
				if next(4) == 0 {
					options = append(options, trace.WithNewRoot())
				}
				ctx, s := tracer.Start(parents[next(len(parents))], []string{"", "POST", "send feedback"}[next(3)], options...)
				parents, spans = append(parents, ctx), append(spans, s)
				continue
			}
			s := spans[next(len(spans))]
			switch next(7) {
			case 0:
				s.SetAttributes(attributes()...)
			case 1:
				s.AddEvent([]string{"", "connect done"}[next(2)], at(), trace.WithAttributes(attributes()...))
			case 2:
				s.AddLink(link())
			case 3:
				s.SetStatus(codes.Code(next(3)), "why")
			case 4:
				s.SetName("renamed")
			case 5:
				s.RecordError(context.Canceled, at())
			case 6:
				s.End(at())
			}
		}
		for _, s := range spans {
			s.End(at())
		}
	}
}

// prepare prepares attributes where that can be done.
func prepare(tracer trace.Tracer, attributes []attribute.KeyValue) trace.SpanStartOption {
	if ours, ok := tracer.(*Tracer); ok {
		return ours.Prepare(attributes...)
	}
	return trace.WithAttributes(attributes...)
}

// limitsOf are the usual limits, none, the least, and ones that are soon reached.
// That no event or link is allowed is not among them: then the SDK forgets how
// many there were.
var limitsOf = []sdktrace.SpanLimits{
	sdktrace.NewSpanLimits(),
	{AttributeValueLengthLimit: -1, AttributeCountLimit: -1, EventCountLimit: -1, LinkCountLimit: -1, AttributePerEventCountLimit: -1, AttributePerLinkCountLimit: -1},
	{EventCountLimit: 1, LinkCountLimit: 1},
	{AttributeValueLengthLimit: 3, AttributeCountLimit: 2, EventCountLimit: 2, LinkCountLimit: 2, AttributePerEventCountLimit: 1, AttributePerLinkCountLimit: 1},
}

// FuzzSpansAreThoseOfTheSDK: whatever is done with a tracer, what is sent is what
// the SDK would have sent.
func FuzzSpansAreThoseOfTheSDK(f *testing.F) {
	for i := range byte(40) {
		var seed []byte
		for j := range byte(200) {
			seed = append(seed, (i+1)*(j+1)^j>>2*i)
		}
		f.Add(i, seed)
	}
	f.Fuzz(func(t *testing.T, limits byte, text []byte) {
		if len(text) > 1000 {
			return // of the same
		}
		both(t, limitsOf[int(limits)%len(limitsOf)], sdktrace.ParentBased(sdktrace.AlwaysSample()), script(text))
	})
}

// TestEveryValueIsSentAsByTheSDK: as an attribute of a span, of an event and of a
// link, at full length and cut.
func TestEveryValueIsSentAsByTheSDK(t *testing.T) {
	t.Parallel()
	for i, limits := range limitsOf {
		sent := both(t, limits, sdktrace.AlwaysSample(), func(tracer trace.Tracer) {
			for i, v := range values {
				kv := attribute.KeyValue{Key: "key", Value: v}
				_, s := tracer.Start(t.Context(), fmt.Sprint(i), trace.WithTimestamp(clock), trace.WithLinks(trace.Link{SpanContext: elsewhere, Attributes: []attribute.KeyValue{kv}}))
				s.SetAttributes(kv)
				s.AddEvent("event", trace.WithTimestamp(clock), trace.WithAttributes(kv))
				s.End(trace.WithTimestamp(clock.Add(time.Second)))
			}
		})
		if got := sent.GetScopeSpans()[0].GetSpans(); len(got) != len(values) || i == 0 && got[0].GetAttributes()[0].GetValue().GetStringValue() != "text" {
			t.Errorf("limits %d: the comparison compares %v", i, got)
		}
	}
}

// TestWhatIsNotAllowedIsCounted: also where no event and no link is.
func TestWhatIsNotAllowedIsCounted(t *testing.T) {
	t.Parallel()
	c := new(captured)
	o := options(c)
	o.Limits = sdktrace.SpanLimits{}
	tracer := start(t, o)
	_, s := tracer.Start(t.Context(), "span", trace.WithLinks(trace.Link{SpanContext: elsewhere}))
	s.AddEvent("event")
	s.AddEvent("another")
	s.SetAttributes(attribute.Bool("key", true))
	s.End()
	if err := tracer.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	sent := c.merged().GetScopeSpans()[0].GetSpans()[0]
	if sent.GetDroppedLinksCount() != 1 || sent.GetDroppedEventsCount() != 2 || sent.GetDroppedAttributesCount() != 1 || len(sent.GetEvents())+len(sent.GetLinks())+len(sent.GetAttributes()) != 0 {
		t.Errorf("sent is %v", sent)
	}
}

// TestWhatIsNoTextIsSentAsText: one such string would cost the whole batch.
func TestWhatIsNoTextIsSentAsText(t *testing.T) {
	t.Parallel()
	c := new(captured)
	tracer := start(t, options(c))
	const bad = "a\xffb"
	_, s := tracer.Start(t.Context(), bad)
	s.SetAttributes(attribute.String("key", bad), attribute.StringSlice("list", []string{bad}))
	s.AddEvent(bad)
	s.SetStatus(codes.Error, bad)
	s.End()
	if err := tracer.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	sent := c.merged().GetScopeSpans()[0].GetSpans()[0]
	if text := sent.String(); strings.Count(text, "a\uFFFDb") != 5 {
		t.Errorf("sent is %s", text)
	}
}

// TestTheSamplerDecides: about each span, and what it decides is in the context
// that goes on.
func TestTheSamplerDecides(t *testing.T) {
	t.Parallel()
	c := new(captured)
	o := options(c)
	o.Sampler = sdktrace.ParentBased(sdktrace.NeverSample())
	tracer := start(t, o)
	for _, of := range []trace.SpanContext{{}, unsampled, elsewhere} {
		sampled := of.IsSampled()
		ctx, s := tracer.Start(trace.ContextWithSpanContext(t.Context(), of), "span")
		sc := s.SpanContext()
		if s.IsRecording() != sampled || sc.IsSampled() != sampled || !sc.IsValid() || sc.SpanID() == of.SpanID() || of.IsValid() && sc.TraceID() != of.TraceID() {
			t.Errorf("below %v there is %v", of, sc)
		}
		if sc.TraceState().String() != of.TraceState().String() || !sc.Equal(trace.SpanContextFromContext(ctx)) {
			t.Errorf("what goes on is %v", trace.SpanContextFromContext(ctx))
		}
		s.End()
		if s.IsRecording() {
			t.Error("it records after its end")
		}
	}
	if err := tracer.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if sizes := c.sizes(); len(sizes) != 1 || sizes[0] != 1 {
		t.Errorf("%v spans were sent, want the sampled one", sizes)
	}
}

// TestIDsAreRandom: and a span is as long as it took.
func TestIDsAreRandom(t *testing.T) {
	t.Parallel()
	c := new(captured)
	o := options(c)
	o.IDs = nil
	tracer := start(t, o)
	seen := make(map[string]bool)
	for range 3 {
		_, s := tracer.Start(t.Context(), "span")
		id := s.SpanContext()
		seen[id.TraceID().String()], seen[id.SpanID().String()] = true, true
		s.End()
	}
	if len(seen) != 6 {
		t.Errorf("6 ids are %v", seen)
	}
	if err := tracer.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, s := range c.merged().GetScopeSpans()[0].GetSpans() {
		if took := s.GetEndTimeUnixNano() - s.GetStartTimeUnixNano(); took <= 0 || took > uint64(time.Minute) || time.Since(time.Unix(0, int64(s.GetStartTimeUnixNano()))) > time.Hour {
			t.Errorf("a span of %v from %d", took, s.GetStartTimeUnixNano())
		}
	}
}

func TestAClientThatDoesNotStartIsAnError(t *testing.T) {
	t.Parallel()
	cause := errors.New("no such certificate")
	if _, err := New(t.Context(), options(&captured{started: cause})); !errors.Is(err, cause) {
		t.Error(err)
	}
}

// TestSpansDoNotMix: each has what was recorded of it, although records are used
// again and many are under way.
func TestSpansDoNotMix(t *testing.T) {
	t.Parallel()
	c := new(captured)
	o := options(c)
	o.IDs = nil
	tracer := start(t, o)
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			for i := range 100 {
				name := fmt.Sprintf("%d of %d", i, w)
				_, s := tracer.Start(context.Background(), name)
				s.SetAttributes(attribute.String("name", name))
				s.AddEvent(name)
				s.End()
				s.AddEvent("late")
				s.SetAttributes(attribute.Bool("late", true))
				s.End()
			}
		})
	}
	all.Wait()
	if err := tracer.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, s := range c.merged().GetScopeSpans()[0].GetSpans() {
		seen[s.GetName()] = true
		if len(s.GetAttributes()) != 1 || s.GetAttributes()[0].GetValue().GetStringValue() != s.GetName() || len(s.GetEvents()) != 1 || s.GetEvents()[0].GetName() != s.GetName() {
			t.Errorf("%v", s)
		}
	}
	if len(seen) != 800 {
		t.Errorf("%d spans were sent, want 800", len(seen))
	}
}

// BenchmarkSpan is what one span of the relay's size costs, export included, and
// what it costs by the SDK.
func BenchmarkSpan(b *testing.B) {
	b.Run("ours", func(b *testing.B) {
		o := options(new(discarding))
		o.IDs, o.Batching.Batch = nil, sdktrace.DefaultMaxExportBatchSize
		o.Batching.Queue = math.MaxInt
		benchmarkSpan(b, start(b, o))
	})
	b.Run("sdk", func(b *testing.B) {
		exporter, err := otlptrace.New(b.Context(), new(discarding))
		if err != nil {
			b.Fatal(err)
		}
		provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter, sdktrace.WithBlocking()), sdktrace.WithResource(testResource()))
		benchmarkSpan(b, provider.Tracer(testScope.Name))
		if err := provider.Shutdown(context.Background()); err != nil {
			b.Error(err)
		}
	})
}

func benchmarkSpan(b *testing.B, tracer trace.Tracer) {
	b.ReportAllocs()
	for b.Loop() {
		attributes := make([]attribute.KeyValue, 0, 10)
		for _, key := range [...]attribute.Key{"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"} {
			attributes = append(attributes, key.String("value"))
		}
		_, s := tracer.Start(context.Background(), "span", trace.WithSpanKind(trace.SpanKindClient))
		s.AddEvent("request written")
		s.AddEvent("first byte")
		s.SetAttributes(attributes...)
		s.End()
	}
}

// discarding encodes what it would send.
type discarding struct{ captured }

func (*discarding) UploadTraces(_ context.Context, all []*otlp.ResourceSpans) error {
	_, err := proto.Marshal(&otlp.TracesData{ResourceSpans: all})
	return err
}
