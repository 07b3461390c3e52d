package queue

import "context"

// Registry holds the webhook records. Several relays may work on one store; they learn
// of each other's changes through it. An engine whose store only one process can open
// embeds Alone.
type Registry interface {
	// Webhooks returns every webhook record, sorted by id. Current: see Reader.
	Webhooks(ctx context.Context) ([]Webhook, error)
	// PutWebhook creates a webhook record if Revision is 0; the engine assigns an ID
	// that is never reused. Otherwise it replaces the record if Revision is the stored
	// one.
	PutWebhook(ctx context.Context, w Webhook) (Webhook, error)
	// DeleteWebhook removes the record if Revision is the stored one, cancels its
	// waiting deliveries and returns how many it cancelled. Cancelled deliveries do not
	// keep their events: an event older than the retention may be removed at once.
	DeleteWebhook(ctx context.Context, id WebhookID, revision uint64) (int64, error)

	// Node names this relay among those that work on the store. It is empty if the
	// engine allows only one.
	Node() string
	// Watch calls changed, from one goroutine, with every record at first and then with
	// each record that any relay has changed, within a second while the servers answer.
	// It may skip a state that another change has followed. Of a deleted webhook only the
	// ID is set. Watch returns when ctx ends or the queue is closed. If there is only one
	// relay, it need not call changed at all.
	Watch(ctx context.Context, changed func(w Webhook, deleted bool))
	// Tell sends a message to the other relays on the store. It does not wait. A message
	// may be lost.
	Tell(message []byte)
	// Hear calls heard, from one goroutine, for each message that another relay has sent
	// with Tell. It returns when ctx ends or the queue is closed.
	Hear(ctx context.Context, heard func(message []byte))
}

// Alone is the part of Registry that concerns other relays, for an engine whose store
// only one process can open.
type Alone struct{}

// Node implements Registry.
func (Alone) Node() string { return "" }

// Watch implements Registry. It waits for the end of ctx.
func (Alone) Watch(ctx context.Context, _ func(Webhook, bool)) { <-ctx.Done() }

// Tell implements Registry. Nobody hears it.
func (Alone) Tell([]byte) {}

// Hear implements Registry. It waits for the end of ctx.
func (Alone) Hear(ctx context.Context, _ func([]byte)) { <-ctx.Done() }
