package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"
)

// TestHangingReceiverDelaysNobody: beside a receiver that never answers, the
// other one's p99 from submit to arrival stays under 100 ms.
func TestHangingReceiverDelaysNobody(t *testing.T) {
	const events, limit = 500, 100 * time.Millisecond
	release := make(chan struct{})
	hanging := startReceiver(t, func(arrival) int { <-release; return http.StatusOK })
	t.Cleanup(func() { close(release) }) // before the server's own, which waits for its requests
	healthy := startReceiver(t, nil)
	s := startRelay(t, relayOptions{app: fmt.Sprintf(
		"webhook hanging {\n url %s\n secret %s\n}\nwebhook healthy {\n url %s\n secret %s\n}",
		hanging.url, secret, healthy.url, secret)})

	submitted := map[string]time.Time{}
	pace := time.NewTicker(5 * time.Millisecond)
	defer pace.Stop()
	for range events {
		<-pace.C
		at := time.Now()
		submitted[s.mustSubmit("hello")] = at
	}
	all := healthy.await(t, 30*time.Second, "every event at the healthy receiver", func(all []arrival) bool { return len(all) == events })

	var took []time.Duration
	for _, a := range all {
		took = append(took, a.at.Sub(submitted[documentOf(t, a).Data.ID]))
	}
	slices.Sort(took)
	p99 := took[len(took)*99/100]
	t.Logf("submit to arrival: p50 %s, p99 %s", took[len(took)/2], p99)
	if p99 > limit {
		t.Errorf("p99 %s, want at most %s", p99, limit)
	}
	if w := s.webhook("hanging"); w.Counts.Delivered != 0 {
		t.Errorf("the hanging receiver counts %d delivered: it did not hang", w.Counts.Delivered)
	}
}
