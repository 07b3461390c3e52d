package telemetry

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// linkedSampler samples a root span that links to a sampled span, even if base does
// not sample the new trace. So the fifth retry of a sampled event is sampled too, days
// later. For a span with a parent, base decides.
type linkedSampler struct{ base sdktrace.Sampler }

// ShouldSample implements sdktrace.Sampler.
func (s linkedSampler) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	result := s.base.ShouldSample(p)
	if result.Decision == sdktrace.RecordAndSample || trace.SpanContextFromContext(p.ParentContext).IsValid() {
		return result
	}
	for _, link := range p.Links {
		if link.SpanContext.IsSampled() {
			result.Decision = sdktrace.RecordAndSample
			break
		}
	}
	return result
}

// Description implements sdktrace.Sampler.
func (s linkedSampler) Description() string { return "LinkedOr{" + s.base.Description() + "}" }

// samplerFromEnvironment returns the sampler that OTEL_TRACES_SAMPLER and
// OTEL_TRACES_SAMPLER_ARG name. The SDK reads them too, but has no function that returns
// the sampler. If there is an error, the sampler is usable: an unknown name gives
// parentbased_always_on, and an unreadable ratio counts as 1, as the OpenTelemetry
// specification demands.
func samplerFromEnvironment() (sdktrace.Sampler, error) {
	fallback := linkedSampler{sdktrace.ParentBased(sdktrace.AlwaysSample())}
	ratio, err := samplingRatio(os.Getenv("OTEL_TRACES_SAMPLER_ARG"))
	switch name := strings.ToLower(strings.TrimSpace(os.Getenv("OTEL_TRACES_SAMPLER"))); name {
	case "", "parentbased_always_on":
		return fallback, nil
	case "always_on":
		return sdktrace.AlwaysSample(), nil
	case "always_off":
		return sdktrace.NeverSample(), nil
	case "parentbased_always_off":
		return linkedSampler{sdktrace.ParentBased(sdktrace.NeverSample())}, nil
	case "traceidratio":
		return linkedSampler{sdktrace.TraceIDRatioBased(ratio)}, err
	case "parentbased_traceidratio":
		return linkedSampler{sdktrace.ParentBased(sdktrace.TraceIDRatioBased(ratio))}, err
	default:
		return fallback, fmt.Errorf("OTEL_TRACES_SAMPLER: %q is none of always_on, always_off, traceidratio and these with parentbased_ before them", name)
	}
}

// samplingRatio reads a ratio between 0 and 1. An empty text gives 1. If there is an
// error, the ratio is 1.
func samplingRatio(text string) (float64, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return 1, nil
	}
	ratio, err := strconv.ParseFloat(text, 64)
	if err != nil || !(ratio >= 0 && ratio <= 1) {
		return 1, fmt.Errorf("OTEL_TRACES_SAMPLER_ARG: %q is no number between 0 and 1", text)
	}
	return ratio, nil
}
