package storeclock

import (
	"time"

	"golang.org/x/sys/unix"
)

// slept returns how long the machine has slept: the difference between the clock that runs
// while the machine sleeps and the runtime's clock, which does not.
func slept() time.Duration {
	var boot, awake unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &awake) != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil {
		return 0
	}
	// The clocks are read one after the other. The time between the two is not sleep.
	return time.Duration(boot.Nano() - awake.Nano()).Truncate(time.Second)
}
