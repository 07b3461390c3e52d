package caddymodule

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
)

func TestEngineLogsToNewestConfiguration(t *testing.T) {
	t.Parallel()
	var first, second bytes.Buffer
	one, two := slog.New(slog.NewTextHandler(&first, nil)), slog.New(slog.NewTextHandler(&second, nil))
	s := newSwitchLogger(one)
	log := s.logger().With("part", "store").WithGroup("disk")

	s.push(one)
	log.Info("to one", "free", 1)
	s.push(two)
	log.Info("to two", "free", 2)
	s.remove(two) // a failed reload
	log.Info("to one again")
	s.push(two)
	s.remove(one)
	s.remove(two)
	log.Info("last to two")

	if got := first.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, `msg="to one" part=store disk.free=1`) || !strings.Contains(got, "to one again") {
		t.Errorf("first:\n%s", got)
	}
	if got := second.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, `msg="to two" part=store disk.free=2`) || !strings.Contains(got, "last to two") {
		t.Errorf("second:\n%s", got)
	}
}

// TestRefusalsAreLoggedWithoutStackTrace: Caddy adds a stack trace to errors that are
// logged with a request's context.
func TestRefusalsAreLoggedWithoutStackTrace(t *testing.T) {
	s, h := newSite(t), newHook(t)
	s.load(webhookTo(h)+"max_disk 1MiB\n", directive)
	body := fmt.Sprintf(`{"message":%q}`, strings.Repeat("x", 50_000))
	eventually(t, func() bool { return s.post(body).Status == http.StatusServiceUnavailable })
	line := grep(s.log(), "submission not stored")
	if !strings.Contains(line, `"reason":"full"`) || strings.Contains(line, "stacktrace") || strings.Contains(line, ".go:") {
		t.Errorf("logged: %s", line)
	}
}
