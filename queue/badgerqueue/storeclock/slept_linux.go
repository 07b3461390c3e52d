package storeclock

import (
	"time"

	"golang.org/x/sys/unix"
)

// slept is the lead of the clock that counts while the machine sleeps over the
// one that does not, which is the runtime's.
func slept() time.Duration {
	var boot, awake unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &awake) != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil {
		return 0
	}
	// The two are read one after the other: what passes in between is no sleep.
	return time.Duration(boot.Nano() - awake.Nano()).Truncate(time.Second)
}
