package caddymodule

import (
	"log/slog"

	"github.com/caddyserver/caddy/v2"

	"github.com/userhero/relay/caddymodule/telemetry"
	"github.com/userhero/relay/caddymodule/version"
	"github.com/userhero/relay/intake"
	"github.com/userhero/relay/relay"
)

// observer counts what the relay and the intake report. It also passes a webhook's
// changes of state to stateChanged.
type observer struct {
	*telemetry.Metrics
	stateChanged func(webhook, from, to string)
}

// StateChanged implements relay.Observer.
func (o observer) StateChanged(webhook, from, to string) { o.stateChanged(webhook, from, to) }

// tracings holds the process's Tracing while an engine uses it. There is one for the
// process, because the environment configures it, and because a span may end long after
// the configuration in which it began. Caddy's own tracer provider cannot be used:
// modules have no access to it, and it ends with a configuration.
var tracings = caddy.NewUsagePool()

// pooledTracing is a Tracing that the pool shuts down after its last release.
type pooledTracing struct{ *telemetry.Tracing }

// Destruct implements caddy.Destructor.
func (t pooledTracing) Destruct() error { return t.Shutdown() }

// acquireTracing returns the process's Tracing and counts a reference to it. It returns
// nil if the environment does not ask for spans. It also returns nil, and logs the
// error, if the exporter cannot be made: the relay works without spans.
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

// releaseTracing gives up a reference. The last release exports the remaining spans.
func releaseTracing(t *telemetry.Tracing) error {
	if t == nil {
		return nil
	}
	_, err := tracings.Delete(telemetry.Scope)
	return err
}

// Interface guards
var (
	_ intake.Observer = observer{}
	_ relay.Observer  = observer{}
)
