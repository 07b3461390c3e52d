package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// tick is Linux's unit for a process's CPU time: USER_HZ, which is 100 on every
// architecture that Go supports.
const tick = time.Second / 100

// cpuTime returns a process's CPU time in user and kernel mode. It returns 0 on systems
// other than Linux.
func cpuTime(pid int) (time.Duration, error) {
	if runtime.GOOS != "linux" {
		return 0, nil
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// proc(5): the name, in parentheses, may contain anything; utime and stime are the
	// 12th and 13th field after it.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * tick, nil
}

// diskWrites returns how many bytes a process has had written to the disk, those that the
// kernel has not written yet included. It returns 0 on systems other than Linux.
func diskWrites(pid int) (written int64, err error) {
	io, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	for line := range strings.Lines(string(io)) {
		_, _ = fmt.Sscanf(line, "write_bytes: %d", &written)
	}
	return written, err
}

// cpuPer returns the CPU time per event since the start, in microseconds, or 0 if the
// system does not report it.
func (s *server) cpuPer(events uint64) float64 {
	used, err := cpuTime(s.process.PID())
	if err != nil {
		return 0
	}
	return float64(used-s.started) / float64(time.Microsecond) / float64(events)
}
