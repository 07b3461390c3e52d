package queue

import "time"

// Limits bound what a queue keeps. The zero value is the engine's default.
type Limits struct {
	// Retention is how long an event is kept after its last delivery ended, or, if
	// none was delivered or failed, after it was accepted. A delivery that was
	// cancelled with its webhook does not count.
	Retention time.Duration
	// MaxDisk bounds the store in bytes: near it finished events go early, the
	// oldest first and no more than brings the store below; at it Enqueue answers
	// ErrFull. What waits is never dropped. 0 is no bound.
	MaxDisk int64
}

// Limited is a Queue whose limits can change while it is open.
type Limited interface {
	Queue
	// SetLimits has other limits count from now on.
	SetLimits(l Limits)
}
