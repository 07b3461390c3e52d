package simulation

import (
	"flag"
	"fmt"
	"strings"
	"sync"
	"time"
)

// history keeps the last lines of what happened, for the one who looks for the
// reason of a failure.
type history struct {
	mu    sync.Mutex
	start time.Time
	lines []string
	n     int
}

var keptFlag = flag.Int("history", 60, "how many lines of its history a failure shows")

func newHistory() *history { return &history{start: time.Now(), lines: make([]string, *keptFlag)} }

func (h *history) add(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines[h.n%len(h.lines)] = fmt.Sprintf("%12s  ", time.Since(h.start)) + fmt.Sprintf(format, args...)
	h.n++
}

func (h *history) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var b strings.Builder
	for i := max(0, h.n-len(h.lines)); i < h.n; i++ {
		b.WriteString(h.lines[i%len(h.lines)])
		b.WriteByte('\n')
	}
	return b.String()
}
