package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// disk measures the disk that the stores are on, without Caddy, so that the other rows can
// be read on any disk.
func disk() scenario {
	return scenario{
		rows: []row{
			{name: "disk, fdatasync of a page, p50", unit: "ms"},
			{name: "disk, fdatasync of a page, p99", unit: "ms"},
			{name: "disk, fdatasync of a page, longest", unit: "ms"},
			{name: "disk, sequential writes", unit: "MB/s"},
		},
		relay: func(ctx context.Context, o options) (outcome, error) {
			took, err := syncPages(ctx, o, o.duration/10, 0)
			if err != nil {
				return outcome{}, err
			}
			written, err := writeThrough(o)
			if err != nil {
				return outcome{}, err
			}
			return outcome{figures: []float64{
				milliseconds(quantile(took, 0.5)), milliseconds(quantile(took, 0.99)), milliseconds(quantile(took, 1)), written,
			}}, nil
		},
	}
}

// syncPages writes pages one after another into a file that has its blocks already, each
// with a sync of its own, and returns how long each took, sorted. A rate of 0 means without
// pauses.
func syncPages(ctx context.Context, o options, during time.Duration, rate float64) ([]time.Duration, error) {
	const pages = 1024
	f, err := os.Create(filepath.Join(o.out, "disk"))
	if err != nil {
		return nil, err
	}
	defer func() { _, _ = f.Close(), os.Remove(f.Name()) }()
	page := make([]byte, 4096)
	for i := range page {
		page[i] = byte(i * 7)
	}
	for range pages {
		if _, err := f.Write(page); err != nil {
			return nil, fmt.Errorf("writing to the disk: %w", err)
		}
	}
	if err := f.Sync(); err != nil {
		return nil, fmt.Errorf("writing to the disk: %w", err)
	}
	var took []time.Duration
	for n, began := 0, time.Now(); time.Since(began) < during && ctx.Err() == nil; n++ {
		if rate > 0 {
			<-time.After(time.Until(began.Add(time.Duration(float64(n) * float64(time.Second) / rate))))
		}
		start := time.Now()
		if _, err := f.WriteAt(page, int64(n%pages*len(page))); err != nil {
			return nil, fmt.Errorf("writing to the disk: %w", err)
		}
		if err := dataSync(f); err != nil {
			return nil, fmt.Errorf("syncing to the disk: %w", err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return took, ctx.Err()
}

// writeThrough returns how many megabytes a second the disk takes, synced every 64 MiB as
// large tables are.
func writeThrough(o options) (float64, error) {
	const pieces, each = 4, 64 << 20
	f, err := os.Create(filepath.Join(o.out, "disk"))
	if err != nil {
		return 0, err
	}
	defer func() { _, _ = f.Close(), os.Remove(f.Name()) }()
	piece := make([]byte, 1<<20)
	for i := range piece {
		piece[i] = byte(i * 31 >> 3)
	}
	began := time.Now()
	for range pieces {
		for range each / len(piece) {
			if _, err := f.Write(piece); err != nil {
				return 0, fmt.Errorf("writing to the disk: %w", err)
			}
		}
		if err := dataSync(f); err != nil {
			return 0, fmt.Errorf("syncing to the disk: %w", err)
		}
	}
	return pieces * each / 1e6 / time.Since(began).Seconds(), nil
}

// quantile returns a quantile of sorted times.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}
