package queue

import "time"

// Limits bound what a queue keeps. The zero value means the engine's defaults.
type Limits struct {
	// Retention is how long an event is kept after its last delivery ended. If none was
	// delivered or failed, it counts from the event's acceptance. Deliveries that were
	// cancelled with their webhook do not count.
	Retention time.Duration
	// MaxDisk bounds the store in bytes; 0 means no bound. Near the bound, finished
	// events are removed early, oldest first and no more than necessary. At the bound,
	// Enqueue returns ErrFull. Waiting deliveries are never dropped.
	MaxDisk int64
	// RedactAfter is how long after its last delivery ended an event is redacted; 0 means
	// never. It counts as Retention does, and is shorter. Of a redacted event Redact makes
	// the document, its attempts keep neither bodies nor response headers, and it is
	// neither requeued nor replaced: ErrRedacted. Deliveries that wait for a parked webhook
	// then fail.
	RedactAfter time.Duration
	Redact      func(document []byte) []byte
}

// Limited is a Queue whose limits can change while it is open.
type Limited interface {
	Queue
	// SetLimits replaces the limits.
	SetLimits(l Limits)
}

// BackedUp is a Queue that knows when it was backed up.
type BackedUp interface {
	Queue
	// LastBackup returns when the newest backup was made that was read back whole. It
	// is zero if there is none.
	LastBackup() time.Time
}
