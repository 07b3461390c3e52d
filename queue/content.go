package queue

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"time"
)

// Exported is a Queue whose whole content can be read, to back it up or to move it to
// another engine.
type Exported interface {
	Queue
	// Export passes everything that the queue holds to a sink. The queue goes on working.
	// What is accepted after the call began is left out. On a cluster, what is settled
	// meanwhile may be passed on as waiting. Export returns the sink's first error.
	Export(ctx context.Context, to Sink) error
}

// Sink takes the content of a queue: first webhooks, then events in ascending order of
// their sequence numbers, then everything else. It may be used by one goroutine at a time.
// What it gets is valid only during the call. A sink keeps all ids, so that receivers
// recognise deliveries.
type Sink interface {
	// Webhook takes a webhook record.
	Webhook(w Webhook) error
	// LastWebhook takes the highest id that a webhook has ever had.
	LastWebhook(id WebhookID) error
	// Event takes an event with everything that belongs to it.
	Event(e StoredEvent) error
	// Key takes an idempotency key.
	Key(k StoredKey) error
	// Activity takes an entry of the activity log, oldest first. Its ID is ignored.
	Activity(a Activity) error
	// Caught takes a submission that a honeypot caught, oldest first.
	Caught(c Caught) error
	// Erased takes the hash of a feedback that was erased: see FeedbackID.Hash.
	Erased(hash [32]byte) error
}

// StoredEvent is an event with everything that is stored with it.
type StoredEvent struct {
	Event
	// Origin and Answer are those of the entry that created the feedback. They are set
	// only if the event is the latest of its feedback.
	Origin     [32]byte
	Answer     []byte
	Deliveries []StoredDelivery
}

// StoredDelivery is a delivery with its attempts, oldest first.
type StoredDelivery struct {
	Delivery
	Log []Attempt
}

// StoredKey is an idempotency key.
type StoredKey struct {
	Key
	Expires time.Time
	// About is the event that the submission stored or, if it stored none, the event that
	// it left as it was. It is zero if that event was erased.
	About EventID
	// Unchanged reports that the submission stored no event.
	Unchanged bool
	Answer    []byte
}

// Hash returns what remains of an erased feedback. Stores keep it, so it never changes.
func (id FeedbackID) Hash() [32]byte {
	b := append(make([]byte, 0, 16+len(id.ID)+len(id.Project)), 'G')
	b = append(binary.AppendUvarint(b, uint64(len(id.ID))), id.ID...)
	b = binary.AppendUvarint(b, uint64(len(id.Project)))
	if len(id.Project) > 255 {
		project := sha256.Sum256([]byte(id.Project))
		return sha256.Sum256(append(b, project[:]...))
	}
	return sha256.Sum256(append(b, id.Project...))
}
