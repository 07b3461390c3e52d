package caddymodule

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/userhero/relay/relay"
)

// eventNames are the Caddy events of a webhook's changes of state, by the state
// it comes to: `events { on webhook_failing … }` runs whatever it names.
var eventNames = map[string]string{
	relay.Active:   "webhook_active",
	relay.Failing:  "webhook_failing",
	relay.Disabled: "webhook_disabled",
}

// emit reports a change of state to the configuration's events app, if there is
// one. It does not wait for the handlers: one may run a command.
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
