package main

import "time"

// cpuPer returns the CPU time per event since the start, in microseconds, or 0 if the
// system does not report it.
func (s *server) cpuPer(events uint64) float64 {
	used, err := cpuTime(s.process.PID())
	if err != nil {
		return 0
	}
	return float64(used-s.started) / float64(time.Microsecond) / float64(events)
}
