package e2e

import (
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

// TestLadderRunsOutAndRecovers: one initial attempt and five retries, each no
// earlier than its rung after the attempt before had ended; then failed and
// failing; a later 2xx makes the webhook active again. It measures the rungs, so no other
// test of the package runs beside it.
func TestLadderRunsOutAndRecovers(t *testing.T) {
	rungs := []time.Duration{300 * time.Millisecond, 600 * time.Millisecond, 900 * time.Millisecond, 1200 * time.Millisecond, 1500 * time.Millisecond}
	var healthy atomic.Bool
	r := startReceiver(t, func(arrival) int {
		if healthy.Load() {
			return http.StatusNoContent
		}
		return http.StatusInternalServerError
	})
	s := startRelay(t, relayOptions{app: fmt.Sprintf(
		"retry 300ms 600ms 900ms 1200ms 1500ms\nwebhook app {\n url %s\n secret %s\n}", r.url, secret)})

	s.mustSubmit("nobody home")

	r.await(t, 20*time.Second, "six attempts", func(all []arrival) bool { return len(all) >= 6 })
	eventually(t, 5*time.Second, "the delivery is failed and the webhook failing", func() bool {
		w := s.webhook("app")
		return w.State == "failing" && w.Counts.Failed == 1
	})
	// Longer than any rung: a seventh request would have come by now.
	quiet := time.NewTimer(2 * time.Second)
	defer quiet.Stop()
	<-quiet.C
	all := r.arrivals()
	if len(all) != 6 {
		t.Fatalf("%d requests, want exactly six", len(all))
	}
	feedbackIDs(t, all)
	for i, a := range all {
		if a.attempt != strconv.Itoa(i+1) || a.delivery != all[0].delivery || a.body != all[0].body {
			t.Errorf("request %d: attempt %q of delivery %q, body %s", i+1, a.attempt, a.delivery, a.body)
		}
		if i == 0 {
			continue
		}
		rung, gap := rungs[i-1], a.at.Sub(all[i-1].answered)
		// 10 % of the rung, and what this machine needs to wake up and commit.
		if latest := rung + rung/10 + 250*time.Millisecond; gap < rung || gap > latest {
			t.Errorf("retry %d came %s after the attempt before, want %s to %s", i, gap, rung, latest)
		}
	}
	failed := s.deliveries("app")
	if len(failed) != 1 || failed[0].State != "failed" || failed[0].AttemptsMade != 6 {
		t.Errorf("the API shows %+v", failed)
	}

	healthy.Store(true)
	second := s.mustSubmit("somebody home")
	r.await(t, 10*time.Second, "the new event is tried on the failing webhook", func(all []arrival) bool {
		return len(all) == 7 && documentOf(t, all[6]).Data.ID == second
	})
	eventually(t, 5*time.Second, "the webhook is active again", func() bool {
		w := s.webhook("app")
		return w.State == "active" && w.Counts.Delivered == 1
	})
}
