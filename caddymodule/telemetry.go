package caddymodule

import (
	"log/slog"

	"github.com/caddyserver/caddy/v2"

	"github.com/userhero/relay/caddymodule/telemetry"
	"github.com/userhero/relay/caddymodule/version"
	"github.com/userhero/relay/intake"
	"github.com/userhero/relay/relay"
)

// observer counts what the relay and the intake report, and passes on a webhook's
// changes of state.
type observer struct {
	*telemetry.Metrics
	stateChanged func(webhook, from, to string)
}

// StateChanged implements relay.Observer.
func (o observer) StateChanged(webhook, from, to string) { o.stateChanged(webhook, from, to) }

// tracings holds the one tracing of this process while an engine uses it. The
// environment turns it on, which no configuration changes, and a span may end long
// after the configuration that began it. Caddy's own tracer provider cannot be used:
// modules do not reach it, and it ends with a configuration.
var tracings = caddy.NewUsagePool()

// pooledTracing ends with the last reference to it.
type pooledTracing struct{ *telemetry.Tracing }

// Destruct implements caddy.Destructor.
func (t pooledTracing) Destruct() error { return t.Shutdown() }

// acquireTracing returns the process's tracing and counts a reference to it. It
// returns nil if no spans are wanted, or if the environment asks for an exporter that
// cannot be made; then it logs why, because feedback goes on without spans.
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

// Interface guards
var (
	_ intake.Observer = observer{}
	_ relay.Observer  = observer{}
)
