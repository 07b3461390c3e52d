//go:build !linux

package main

import (
	"os"
	"time"
)

func ownTime() time.Duration { return 0 }

func dataSync(f *os.File) error { return f.Sync() }
