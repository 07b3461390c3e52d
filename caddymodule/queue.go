package caddymodule

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/userhero/relay/queue"
)

// QueueOpener is what a module in the namespace userhero.queues provides: a
// store that is described when the configuration is loaded and opened when it
// starts to count.
type QueueOpener interface {
	// StoreKey names the store within the process: two configurations with the
	// same key share one open store. For a store in a folder it is the cleaned
	// absolute path.
	StoreKey() string
	// StoreSettings are the options that count only when the store is opened,
	// by name. They are compared, to tell the user which of them a reload has
	// not applied, and never shown; a secret among them appears as a digest.
	StoreSettings() map[string]string
	// OpenQueue opens the store. It is called once per key at a time.
	OpenQueue(ctx context.Context, o QueueOptions) (queue.Queue, error)
}

// QueueOptions are the app's settings that a store needs.
type QueueOptions struct {
	// Retention is how long an event is kept after its last delivery ended.
	Retention time.Duration
	// MaxDisk bounds the store's size in bytes; 0 is no bound.
	MaxDisk int64
	// Logger gets the store's messages.
	Logger *slog.Logger
	// OnCommit is called after every durable commit with the time it took and
	// the number of operations in it.
	OnCommit func(took time.Duration, operations int)
}

// loadQueue returns the engine of the app's QueueRaw.
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
