package tally

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
)

// TestQuantilesAreCloseToTheSorted compares the quantiles with those of the sorted
// values.
func TestQuantilesAreCloseToTheSorted(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	now := time.Now()
	for _, scale := range []time.Duration{20 * time.Microsecond, time.Millisecond, time.Second, time.Hour} {
		var y Relay
		all := make([]time.Duration, 10_000)
		for i := range all {
			all[i] = time.Duration(random.ExpFloat64() * float64(scale))
			y.First(now, all[i])
		}
		slices.Sort(all)
		d := NewDay(now)
		y.AddTo(&d, now)
		for want, got := range map[time.Duration]time.Duration{all[4999]: d.P50, all[9899]: d.P99} {
			if diff := (got - want).Abs(); diff > want/15+time.Microsecond {
				t.Errorf("at a scale of %s: %s, sorted it is %s", scale, got, want)
			}
		}
	}
	for _, d := range []time.Duration{-1, 0, 1<<63 - 1} {
		if b := bucketOf(d); b < 0 || b >= buckets {
			t.Errorf("bucket %d", b)
		}
	}
}

// TestTallyGoesOnAfterARestart: an hour in which no answer came is stored without times,
// and counts the answers that come after a restart.
func TestTallyGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 7, 15, 30, 0, 0, time.UTC)
	var before, after Webhook
	before.Count(at, queue.Attempt{Error: "no answer", ErrorClass: "timeout"})
	data, err := json.Marshal(before.Stored())
	if err != nil {
		t.Fatal(err)
	}
	var stored Stored
	if err := json.Unmarshal(data, &stored); err != nil {
		t.Fatal(err)
	}
	after.Restore(stored)
	after.Count(at, queue.Attempt{Status: 200, Duration: time.Second})
	if got := after.hours[hourOf(at)%Hours]; got.Delivered != 1 || got.Failed != 1 || len(got.Times) != 1 || len(got.Answers) != 2 {
		t.Errorf("the hour holds %+v", got)
	}
}
