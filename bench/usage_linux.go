package main

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ownTime is the CPU time of this process and of its children that have ended.
func ownTime() (sum time.Duration) {
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if unix.Getrusage(who, &u) == nil {
			sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
	}
	return sum
}

func dataSync(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }
