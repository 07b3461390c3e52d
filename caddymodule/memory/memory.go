// Package memory says how much memory the relay may use, and shares it out.
//
// It promises to read the limit of the process, of GOMEMLIMIT or of its control group,
// and to set the Go runtime's limit so that what the kernel counts besides Go's memory
// has room. It does not know what uses the shares. The end-to-end tests run the relay
// within a limit.
package memory

import (
	"fmt"
	"log/slog"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/dustin/go-humanize"
)

const (
	// Least is the least memory that the relay is tested with, in bytes.
	Least = 128 << 20
	// goShare is the part of a control group's limit that is Go's. The rest is for the
	// program, for threads, and for the pages of the store's logs and tables that are
	// not written yet: the kernel counts them too.
	goShare = 0.5
	// If no limit is set, Go's limit is small, in bytes, while at most smallLive bytes are
	// in use, and a third above what is in use up to mostLive. Under full load the relay
	// then takes at most 192 MiB. If other modules of the process need more, the limit is
	// again what it was before.
	small, smallLive, mostLive = 160 << 20, 120 << 20, 256 << 20
)

// Limit is the memory that the process may use.
type Limit struct {
	Bytes int64  // 0 means no limit
	From  string // what sets it: "GOMEMLIMIT", "the control group", or nothing
}

// Read returns the process's limit. It reads it once: a limit does not change while the
// process runs.
var Read = sync.OnceValue(func() Limit {
	if os.Getenv("GOMEMLIMIT") != "" {
		if of := debug.SetMemoryLimit(-1); of != math.MaxInt64 {
			return Limit{int64(float64(of) / goShare), "GOMEMLIMIT"}
		}
		return Limit{} // GOMEMLIMIT=off
	}
	if of, err := memlimit.FromCgroup(); err == nil && of < math.MaxInt64 {
		debug.SetMemoryLimit(int64(float64(of) * goShare))
		return Limit{int64(of), "the control group"}
	}
	if os.Getenv("GOGC") == "" {
		keepSmall(debug.SetMemoryLimit(small), small)
	}
	return Limit{}
})

// keepSmall sets Go's limit anew after each garbage collection. before is the limit that the
// process had, and is the present one.
func keepSmall(before, is int64) {
	type collected struct{ _ [16]byte } // of a size that is not allocated together with others
	runtime.AddCleanup(new(collected), func(struct{}) {
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(live)
		limit := limitFor(int64(live[0].Value.Uint64()), before)
		if limit != is {
			debug.SetMemoryLimit(limit)
		}
		keepSmall(before, limit)
	}, struct{}{})
}

// limitFor returns Go's limit while live bytes are in use.
func limitFor(live, before int64) int64 {
	switch {
	case live <= smallLive:
		return small
	case live <= mostLive:
		return min(live+live/3, before)
	}
	return before
}

// Intake returns how many bytes submissions may hold.
func (l Limit) Intake() int64 {
	const most = 64 << 20
	if l.Bytes == 0 {
		return most
	}
	return min(l.Bytes/4, most)
}

// Warn logs a limit that is too low.
func (l Limit) Warn(log *slog.Logger) {
	if l.Bytes > 0 && l.Bytes < Least {
		log.Warn(fmt.Sprintf("the process may use less memory than the relay needs under load, %s: give it more, or the kernel may end it", humanize.IBytes(Least)),
			"limit", humanize.IBytes(uint64(l.Bytes)), "set_by", l.From)
	}
}
