package caddymodule

import (
	"fmt"

	"github.com/caddyserver/caddy/v2"

	"github.com/userhero/relay/relay/notify"
)

// loadNotifiers loads the modules in the app's NotifiersRaw and returns them in order.
func loadNotifiers(ctx caddy.Context, app any) ([]notify.Notifier, error) {
	modules, err := ctx.LoadModule(app, "NotifiersRaw")
	if err != nil {
		return nil, fmt.Errorf("loading the notifiers: %w", err)
	}
	var all []notify.Notifier
	for _, module := range modules.([]any) {
		n, ok := module.(notify.Notifier)
		if !ok {
			return nil, fmt.Errorf("module %T is in the namespace userhero.notifiers but notifies nobody", module)
		}
		all = append(all, n)
	}
	return all, nil
}
