package caddymodule

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/notify"
)

// QueueOpener is what every module in the namespace userhero.queues implements. Caddy
// loads the module with the configuration. The store is opened later, when the
// configuration starts or its first request comes.
type QueueOpener interface {
	// StoreKey identifies the store within the process. Two configurations with the
	// same key share one open store. For a store in a folder it is the cleaned,
	// absolute path.
	StoreKey() string
	// StoreSettings returns, by name, the options that take effect only when the
	// store is opened. They are compared, to log the names of those that a reload
	// has not applied. A secret must be given as a digest.
	StoreSettings() map[string]string
	// Remote reports whether the store is on other machines, which may be down. Caddy
	// then starts without them: the store is opened in the background, as often as
	// necessary. Submissions are answered 503 until it is open.
	Remote() bool
	// OpenQueue opens the store. Calls for the same key do not overlap. The context ends
	// if the engine no longer wants the store before it is open.
	OpenQueue(ctx context.Context, o QueueOptions) (queue.Queue, error)
}

// QueueOptions are the app's settings that a store needs.
type QueueOptions struct {
	// Retention is how long an event is kept after its last delivery has ended.
	Retention time.Duration
	// MaxDisk is the largest size of the store in bytes; 0 means no limit.
	MaxDisk int64
	// Memory is the memory that the process may use in bytes; 0 means no limit.
	Memory int64
	// Logger gets the store's messages.
	Logger *slog.Logger
	// OnCommit is called after every durable commit, with its duration and the
	// number of operations in it.
	OnCommit func(took time.Duration, operations int)
}

// loadQueue loads the module in the app's QueueRaw.
func loadQueue(ctx caddy.Context, app any) (QueueOpener, error) {
	module, err := ctx.LoadModule(app, "QueueRaw")
	if err != nil {
		return nil, fmt.Errorf("loading the queue engine: %w", err)
	}
	opener, ok := module.(QueueOpener)
	if !ok {
		return nil, fmt.Errorf("module %T is in the namespace userhero.queues but opens no queue", module)
	}
	return opener, nil
}

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
