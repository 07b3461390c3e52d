package caddymodule

import (
	"context"
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2"

	"github.com/userhero/relay/relay"
)

// loadNotifiers returns one notifier for all that are configured, or nil.
func (a *App) loadNotifiers(ctx caddy.Context) (relay.Notifier, error) {
	if len(a.NotifiersRaw) == 0 {
		return nil, nil
	}
	modules, err := ctx.LoadModule(a, "NotifiersRaw")
	if err != nil {
		return nil, fmt.Errorf("loading the notifiers: %w", err)
	}
	var all notifiers
	for _, module := range modules.([]any) {
		n, ok := module.(relay.Notifier)
		if !ok {
			return nil, fmt.Errorf("module %T is in the namespace userhero.notifiers but notifies nobody", module)
		}
		all = append(all, n)
	}
	if len(all) == 1 {
		return all[0], nil
	}
	return all, nil
}

// notifiers tells several. Where one of them fails for now the notice is tried
// again, and those that had it get it twice.
type notifiers []relay.Notifier

// Notify implements relay.Notifier.
func (ns notifiers) Notify(ctx context.Context, notices []relay.Notice) error {
	var errs []error
	for _, n := range ns {
		errs = append(errs, n.Notify(ctx, notices))
	}
	return errors.Join(errs...)
}
