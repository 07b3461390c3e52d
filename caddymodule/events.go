package caddymodule

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

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
