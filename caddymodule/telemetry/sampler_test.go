package telemetry

import (
	"context"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

func TestSampledLinksKeepRoots(t *testing.T) {
	context := func(sampled bool) trace.SpanContext {
		c := trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, Remote: true}
		if sampled {
			c.TraceFlags = trace.FlagsSampled
		}
		return trace.NewSpanContext(c)
	}
	sampled, not, none := context(true), context(false), trace.SpanContext{}
	for _, c := range []struct {
		name, argument string
		parent, link   trace.SpanContext
		want           bool
	}{
		{"", "", none, none, true},
		{"", "", not, sampled, false}, // a parent has decided
		{"parentbased_traceidratio", "0", none, none, false},
		{"parentbased_traceidratio", "0", none, not, false},
		{"parentbased_traceidratio", "0", none, sampled, true},
		{"parentbased_traceidratio", "0", sampled, none, true},
		{"parentbased_traceidratio", "0", not, sampled, false},
		{"parentbased_traceidratio", "1", none, not, true},
		{"parentbased_always_off", "", none, sampled, true},
		{"traceidratio", "0", none, sampled, true},
		{"always_off", "", none, sampled, false},
		{"always_off", "", sampled, sampled, false},
		{" Always_On ", "", not, none, true},
		{"no such", "", none, none, true}, // the default
		{"parentbased_traceidratio", "1.5", none, none, true},
		{"parentbased_traceidratio", "NaN", none, none, true},
	} {
		t.Setenv("OTEL_TRACES_SAMPLER", c.name)
		t.Setenv("OTEL_TRACES_SAMPLER_ARG", c.argument)
		sampler, err := samplerFromEnvironment()
		if bad := c.name == "no such" || c.argument == "1.5" || c.argument == "NaN"; (err != nil) != bad {
			t.Errorf("%s %s: %v", c.name, c.argument, err)
		}
		p := sdktrace.SamplingParameters{ParentContext: parentContext(t, c.parent), TraceID: trace.TraceID{15: 255}}
		if c.link.IsValid() {
			p.Links = []trace.Link{{SpanContext: c.link}}
		}
		if got := sampler.ShouldSample(p).Decision == sdktrace.RecordAndSample; got != c.want {
			t.Errorf("%s %s, parent %v, link %v: sampled %t", c.name, c.argument, c.parent, c.link, got)
		}
	}
}

func parentContext(t *testing.T, parent trace.SpanContext) context.Context {
	t.Helper()
	return trace.ContextWithRemoteSpanContext(t.Context(), parent)
}
