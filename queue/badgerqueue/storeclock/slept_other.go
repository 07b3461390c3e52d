//go:build !linux

package storeclock

import "time"

// slept is not asked of this system: a retry that waits over a sleep comes as
// much later.
func slept() time.Duration { return 0 }
