package queue

import "time"

// Clock is what an engine asks about time beyond what the Go runtime tells.
// The runtime's own clock runs forwards only and stands still while the machine
// sleeps: it times what happens within a process. What outlives the process
// needs the time of day, which somebody may set.
type Clock interface {
	// Wall is the time of day. It may have been set since it was read last, by
	// any amount, in either direction.
	Wall() time.Time
	// Slept is for how long the machine was suspended, in all, since some
	// moment before the process began. It never shrinks.
	Slept() time.Duration
}
