package main

import (
	"os"
	"runtime"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// cpuTime returns a process's CPU time in user and kernel mode.
func cpuTime(pid int) (time.Duration, error) {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return 0, err
	}
	stat, err := p.Stat()
	return seconds(stat.CPUTime()), err
}

// diskWrites returns how many bytes a process has had written to the disk, those that the
// kernel has not written yet included.
func diskWrites(pid int) (int64, error) {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return 0, err
	}
	io, err := p.IO()
	return int64(io.WriteBytes), err
}

// memory returns a process's anonymous memory and its mapped file pages, in MiB.
func memory(pid int) (anonymous, mapped float64, err error) {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return 0, 0, err
	}
	status, err := p.NewStatus()
	return float64(status.RssAnon) / (1 << 20), float64(status.RssFile) / (1 << 20), err
}

// machineTimes returns zeros if the system does not report them.
func machineTimes() times {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return times{}
	}
	stat, err := fs.Stat()
	if err != nil {
		return times{}
	}
	all := stat.CPUTotal
	return times{busy: seconds(all.User + all.Nice + all.System), stolen: seconds(all.Steal), own: ownTime()}
}

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

func seconds(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }

// cpu returns the processor's name if the system reports it.
func cpu() string {
	if fs, err := procfs.NewDefaultFS(); err == nil {
		if all, err := fs.CPUInfo(); err == nil && len(all) > 0 && all[0].ModelName != "" {
			return all[0].ModelName
		}
	}
	return runtime.GOARCH
}

func dataSync(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }
