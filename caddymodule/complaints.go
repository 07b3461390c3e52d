package caddymodule

import (
	"log/slog"
	"sync/atomic"
	"time"
)

// complaints logs what befalls many requests at once, such as a full disk, at
// most once a second, with the number of those it stands for.
type complaints struct {
	since  atomic.Int64 // of the last line, nanoseconds since 1970
	silent atomic.Int64 // left out since then
}

func (c *complaints) log(log *slog.Logger, reason string, err error) {
	now := time.Now().UnixNano()
	last := c.since.Load()
	if now-last < int64(time.Second) || !c.since.CompareAndSwap(last, now) {
		c.silent.Add(1)
		return
	}
	log.Error("submission not stored", "reason", reason, "error", err, "others", c.silent.Swap(0))
}
