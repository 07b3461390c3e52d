package caddymodule

import (
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/userhero/relay/relay"
)

// eventNames are the Caddy events of a webhook's changes of state, by the state
// it comes to. So `events { on webhook_failing … }` can do anything at all.
var eventNames = map[string]string{
	relay.Active:   "webhook_active",
	relay.Failing:  "webhook_failing",
	relay.Disabled: "webhook_disabled",
}

// emit tells Caddy's events app, where the configuration has one, of a change of
// state. Handlers may take their time, such as to run a command, so nobody
// waits for them.
func (a *App) emit(webhook, from, to string) {
	name, ok := eventNames[to]
	if !ok || a.ctx.Err() != nil {
		return
	}
	app, err := a.ctx.AppIfConfigured("events")
	if err != nil {
		return // nobody has subscribed
	}
	go app.(*caddyevents.App).Emit(a.ctx, name, map[string]any{"webhook": webhook, "from": from, "to": to})
}

// stateChanged is the engine's report of a webhook's change of state: the newest
// running configuration of its store tells of it.
func (l *engineList) stateChanged(e *engine, webhook, from, to string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := len(l.running) - 1; i >= 0; i-- {
		if a := l.running[i]; a.engine == e {
			a.emit(webhook, from, to)
			return
		}
	}
}
