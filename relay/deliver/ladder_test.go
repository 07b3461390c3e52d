package deliver

import (
	"net/http"
	"testing"
	"time"
)

func TestNextDueClimbsTheLadder(t *testing.T) {
	t.Parallel()
	ended := time.Date(2026, 1, 7, 15, 30, 0, 0, time.UTC)
	ladder := []time.Duration{time.Minute, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 24 * time.Hour}
	for failed, want := range ladder {
		due, ok := NextDue(ladder, failed, ended, 0)
		if !ok || due.Sub(ended) != want {
			t.Errorf("after %d failures: %v, %v; want %v", failed, due.Sub(ended), ok, want)
		}
	}
	if _, ok := NextDue(ladder, len(ladder), ended, time.Hour); ok {
		t.Error("a ladder of five rungs has a sixth")
	}
	if _, ok := NextDue(nil, 0, ended, 0); ok {
		t.Error("an empty ladder has a rung")
	}
	for _, c := range []struct{ asked, want time.Duration }{
		{time.Second, time.Minute},           // shorter than the rung: the rung counts
		{10 * time.Minute, 10 * time.Minute}, // longer: Retry-After counts
		{48 * time.Hour, 24 * time.Hour},     // capped
		{-time.Hour, time.Minute},
	} {
		if due, _ := NextDue(ladder, 0, ended, c.asked); due.Sub(ended) != c.want {
			t.Errorf("asked for %v: %v, want %v", c.asked, due.Sub(ended), c.want)
		}
	}
}

func TestRetryAfterIsReadWithinBounds(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 7, 15, 30, 0, 0, time.UTC)
	for _, c := range []struct {
		status int
		value  string
		want   time.Duration
	}{
		{503, "120", 2 * time.Minute},
		{429, " 5 ", 5 * time.Second},
		{500, "120", 0}, // Retry-After counts only with 429 and 503
		{503, "", 0},
		{503, "soon", 0},
		{503, "-5", 0},
		{503, "9223372036854775807", 24 * time.Hour},
		{503, "99999999999999999999999999", 24 * time.Hour},
		{503, "Wed, 07 Jan 2026 15:31:00 GMT", time.Minute},
		{503, "Wed, 07 Jan 2026 15:29:00 GMT", 0},
		{503, "Wed, 07 Jan 2099 15:29:00 GMT", 24 * time.Hour},
	} {
		if got := retryAfter(c.status, http.Header{"Retry-After": {c.value}}, now); got != c.want {
			t.Errorf("%d with %q: %v, want %v", c.status, c.value, got, c.want)
		}
	}
}
