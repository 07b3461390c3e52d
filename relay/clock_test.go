package relay

import (
	"testing"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/deliver"
)

// TestClockSetBackPutsNoProbeOff: the clock is set back by a year while a webhook
// fails. The next probe is not delayed.
func TestClockSetBackPutsNoProbeOff(t *testing.T) {
	t.Parallel()
	const firstProbe = time.Second // after a failure, if there is no ladder
	for name, last := range map[string]time.Time{
		"set back": time.Now().Add(365 * 24 * time.Hour),
		"right":    time.Now(),
	} {
		w := newWebhook(New(Options{}), queue.Webhook{Name: "w"}, record{State: Failing, LastAttempt: last})
		if ok, wait := w.breaker.Admits(time.Now()); ok || wait > firstProbe {
			t.Errorf("clock %s: admits %v after %v, want a probe within %v", name, ok, wait, firstProbe)
		}
	}
}

// TestLadderDoesNotKnowDaylightSaving: a rung of 24 hours lasts 24 hours, also on a day
// of 23 or 25 hours.
func TestLadderDoesNotKnowDaylightSaving(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip("this system has no time zones: ", err)
	}
	for _, evening := range []time.Time{
		time.Date(2026, 3, 28, 12, 0, 0, 0, berlin),
		time.Date(2026, 10, 24, 12, 0, 0, 0, berlin),
	} {
		due, ok := deliver.NextDue(DefaultLadder(), 4, evening, 0)
		if !ok || due.Sub(evening) != 24*time.Hour {
			t.Errorf("from %s to %s are %v, want 24 hours", evening, due, due.Sub(evening))
		}
	}
}
