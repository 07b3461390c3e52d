package queue

import "time"

// Clock gives an engine the time information that Go's runtime does not have. The
// runtime's clock only runs forwards and stands still while the machine sleeps; it is
// right for durations within one process. Times that outlive the process need the time
// of day, which somebody may change.
type Clock interface {
	// Wall returns the time of day. It may have been changed since the last call, by
	// any amount, in either direction.
	Wall() time.Time
	// Slept returns how long the machine has been suspended in total, since some moment
	// before the process began. It never decreases.
	Slept() time.Duration
}
