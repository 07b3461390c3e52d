package caddymodule

import (
	"context"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/userhero/relay/relay"
)

// eventNames are the names of the Caddy events about webhooks, by the webhook's new
// state. A Caddyfile subscribes with `events { on webhook_failing … }`.
var eventNames = map[string]string{
	relay.Active:   "webhook_active",
	relay.Failing:  "webhook_failing",
	relay.Disabled: "webhook_disabled",
}

// emit emits the Caddy event of a change of state, if the configuration has an events
// app. It does not wait for the handlers, because one may run a command.
func emit(config caddy.Context, webhook, from, to string) {
	name, ok := eventNames[to]
	if !ok || config.Err() != nil {
		return
	}
	app, err := config.AppIfConfigured("events")
	if err != nil {
		return // nobody has subscribed
	}
	go app.(*caddyevents.App).Emit(config, name, map[string]any{"webhook": webhook, "from": from, "to": to})
}

// stopGrace is how long attempts and requests in flight may take at a stop if the
// configuration has no grace_period.
const stopGrace = 30 * time.Second

// onExit calls stop when the process exits, before Caddy stops any app. The app's own
// Stop would be too late: Caddy stops apps one after another, and the http app first
// waits for requests. A reload does not call stop.
func onExit(config caddy.Context, stop func(deadline time.Time)) error {
	events, err := config.App("events")
	if err != nil {
		return fmt.Errorf("loading the events app: %w", err)
	}
	return events.(*caddyevents.App).On("stopping", stopping{config, stop})
}

// stopping handles Caddy's event "stopping".
type stopping struct {
	config caddy.Context
	stop   func(deadline time.Time)
}

// Handle sets the deadline for all attempts and requests in flight.
func (s stopping) Handle(context.Context, caddy.Event) error {
	if caddy.Exiting() {
		s.stop(time.Now().Add(gracePeriod(s.config)))
	}
	return nil
}

// gracePeriod returns how long requests may take when the configuration stops: Caddy's
// shutdown_delay, during which new requests still come, plus its grace_period.
func gracePeriod(config caddy.Context) time.Duration {
	app, err := config.AppIfConfigured("http")
	if err != nil {
		return stopGrace
	}
	http := app.(*caddyhttp.App)
	grace := time.Duration(http.GracePeriod)
	if grace <= 0 {
		grace = stopGrace
	}
	return time.Duration(http.ShutdownDelay) + grace
}

// Interface guard
var _ caddyevents.Handler = stopping{}
