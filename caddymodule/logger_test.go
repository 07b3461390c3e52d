package caddymodule

import (
	"bytes"
	"log/slog"
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

func TestManyRefusalsMakeOneLine(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	var c complaints
	for range 1000 {
		c.log(t.Context(), log, slog.LevelError, "submission not stored", slog.Any("error", errEngineClosed))
	}
	if n := strings.Count(out.String(), "\n"); n < 1 || n > 3 { // a slow machine may need more than a second
		t.Errorf("%d lines for 1000 refusals:\n%s", n, out.String())
	}
}
