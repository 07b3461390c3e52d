package e2e

import (
	"fmt"
	"testing"
	"time"
)

// TestAcknowledgedEventsSurviveKill: five SIGKILLs under load from 16 clients.
func TestAcknowledgedEventsSurviveKill(t *testing.T) {
	r := startReceiver(t, nil)
	s := startRelay(t, relayOptions{app: fmt.Sprintf("webhook app {\n url %s\n secret %s\n}", r.url, secret)})

	l := newLoad(t)
	l.start(s, 16, false)
	for range 5 {
		before := l.acknowledgements()
		eventually(t, 30*time.Second, "500 more acknowledged events", func() bool { return l.acknowledgements() >= before+500 })
		s.killAndRestart()
	}
	l.end()
	if len(l.refused) > 0 {
		t.Errorf("%d submissions were refused, the first with %s", len(l.refused), l.refused[0])
	}
	t.Logf("%d acknowledged, %d submissions cut off", l.acknowledgements(), l.broken)

	arrived := map[string]int{}
	seen := 0
	r.await(t, 60*time.Second, "every acknowledged event has arrived", func(all []arrival) bool {
		for id, n := range feedbackIDs(t, all[seen:]) {
			arrived[id] += n
		}
		seen = len(all)
		return l.missing(arrived) == 0
	})
	feedbackIDs(t, r.arrivals()) // equal bytes over all of them
}
