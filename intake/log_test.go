package intake

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/userhero/relay/queue"
)

// TestManyErrorsMakeFewLines: each of them is in a line, or is counted in a
// later one.
func TestManyErrorsMakeFewLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out output
		log := slog.New(slog.NewTextHandler(&out, nil))
		var c throttle
		complain := func(times int) {
			for range times {
				c.log(t.Context(), log, slog.LevelError, "submission not stored", slog.Any("error", fmt.Errorf("the relay has stopped: %w", queue.ErrClosed)))
			}
		}
		for _, step := range []struct {
			what  string
			do    func()
			lines int
			ends  string
		}{
			{"1000 at once", func() { complain(1000) }, 1, "closed\"\n"},
			{"10 s later", func() { time.Sleep(logPause) }, 1, "others=998\n"},
			{"one more", func() { complain(1) }, 0, ""},
			{"10 s later", func() { time.Sleep(logPause) }, 1, "closed\"\n"},
			{"a long silence", func() { time.Sleep(time.Hour) }, 0, ""},
			{"three", func() { complain(3) }, 1, "closed\"\n"},
			{"the end", c.flush, 1, "others=1\n"},
			{"after it", func() { complain(1) }, 1, "closed\"\n"},
		} {
			out.take()
			step.do()
			synctest.Wait()
			if got := out.take(); strings.Count(got, "\n") != step.lines || !strings.HasSuffix(got, step.ends) {
				t.Errorf("%s: %q, want %d lines that end with %q", step.what, got, step.lines, step.ends)
			}
		}
	})
}
