package caddymodule

import (
	"context"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// awaitExit has the app told before Caddy stops the configuration. Its Stop would
// come too late: Caddy stops apps one after another, and the http app waits for
// requests.
func (a *App) awaitExit(ctx caddy.Context) error {
	events, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("loading the events app: %w", err)
	}
	return events.(*caddyevents.App).On("stopping", stopping{a})
}

// stopping handles Caddy's event of that name.
type stopping struct{ app *App }

// Handle begins the stop of the engine if the process exits: one deadline holds
// for attempts and submissions in flight. A reload goes on with the engine.
func (s stopping) Handle(context.Context, caddy.Event) error {
	if caddy.Exiting() {
		engines.exiting(s.app, time.Now().Add(s.app.gracePeriod()))
	}
	return nil
}

// gracePeriod is how long the configuration lets requests go on when it stops:
// Caddy's shutdown_delay, in which requests still come, and grace_period.
func (a *App) gracePeriod() time.Duration {
	app, err := a.ctx.AppIfConfigured("http")
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
