//go:build !linux

package main

import (
	"os"
	"runtime"
	"time"
)

// Only Linux reports what processes and the machine use.

func cpuTime(int) (time.Duration, error) { return 0, nil }

func diskWrites(int) (int64, error) { return 0, nil }

func memory(int) (anonymous, mapped float64, err error) { return 0, 0, nil }

func machineTimes() times { return times{} }

func cpu() string { return runtime.GOARCH }

func dataSync(f *os.File) error { return f.Sync() }
