package caddymodule

import (
	"log/slog"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"go.opentelemetry.io/otel/trace"

	"github.com/userhero/relay/caddymodule/telemetry"
	"github.com/userhero/relay/caddymodule/version"
	"github.com/userhero/relay/intake"
	"github.com/userhero/relay/relay"
)

// metrics are an engine's, which also has its webhooks' changes of state told to
// Caddy's events.
type metrics struct {
	*telemetry.Metrics
	engine *engine
}

func newMetrics() metrics {
	e := new(engine)
	return e.newMetrics()
}

func (e *engine) newMetrics() metrics {
	return metrics{telemetry.NewMetrics(telemetry.MetricsOptions{
		Relay: e.current, SpansLost: e.lostSpans,
		MissedReasons: intake.MissedReasons(),
	}), e}
}

// StateChanged implements relay.Observer.
func (m metrics) StateChanged(webhook, from, to string) {
	engines.stateChanged(m.engine, webhook, from, to)
}

// tracings holds the one tracing of this process while an engine uses it. What
// turns it on are environment variables, which no configuration changes, and a
// span may end long after the configuration that began it: Caddy's own tracer
// provider is out of reach for modules and ends with a configuration.
var tracings = caddy.NewUsagePool()

// pooledTracing ends with the last reference to it.
type pooledTracing struct{ *telemetry.Tracing }

// Destruct implements caddy.Destructor.
func (t pooledTracing) Destruct() error { return t.Shutdown() }

// acquireTracing returns the process's tracing and counts a reference to it, or
// nil where none is wanted or it cannot be had. The latter is logged and no
// more: feedback is not held up by what watches it.
func acquireTracing(log *slog.Logger) *telemetry.Tracing {
	if !telemetry.Wanted() {
		return nil
	}
	value, loaded, err := tracings.LoadOrNew(telemetry.Scope, func() (caddy.Destructor, error) {
		t, err := telemetry.NewTracing(version.String(), log)
		return pooledTracing{t}, err
	})
	if err != nil {
		log.Error("no spans are exported; see the OTEL_ variables of the environment", "error", err)
		return nil
	}
	t := value.(pooledTracing).Tracing
	if loaded {
		t.SetLogger(log)
	}
	return t
}

// releaseTracing gives a reference back; the last one exports what is left.
func releaseTracing(t *telemetry.Tracing) error {
	if t == nil {
		return nil
	}
	_, err := tracings.Delete(telemetry.Scope)
	return err
}

// clientTrace is the trace context that a client sent along, where spans are
// made.
func (e *engine) clientTrace(header http.Header) trace.SpanContext {
	if !e.traced {
		return trace.SpanContext{}
	}
	return telemetry.ClientTrace(header)
}

// Interface guards
var (
	_ intake.Observer = metrics{}
	_ relay.Observer  = metrics{}
)
