package histogram

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestQuantilesAreWithinOnePercent(t *testing.T) {
	t.Parallel()
	var whole, half Histogram
	random := rand.New(rand.NewPCG(1, 2))
	durations := make([]time.Duration, 20_000)
	for i := range durations {
		durations[i] = time.Duration(1) << random.IntN(36)
		durations[i] += time.Duration(random.Int64N(int64(durations[i])))
		if i%2 == 0 {
			whole.Record(durations[i])
		} else {
			half.Record(durations[i])
		}
	}
	whole.Add(&half)
	if whole.Count() != uint64(len(durations)) {
		t.Fatalf("counted %d of %d", whole.Count(), len(durations))
	}
	slices.Sort(durations)
	for _, q := range []float64{0.001, 0.25, 0.5, 0.99, 0.999, 1} {
		want := durations[max(int(q*float64(len(durations))+0.5), 1)-1]
		if got := whole.Quantile(q); got < want || float64(got) > float64(want)*1.01 {
			t.Errorf("quantile %g is %d, want %d to 1 %% more", q, got, want)
		}
	}
}

func TestEdges(t *testing.T) {
	t.Parallel()
	var h Histogram
	if h.Quantile(0.5) != 0 {
		t.Error("an empty histogram has a median")
	}
	h.Record(-1)
	h.Record(1<<63 - 1)
	if h.Quantile(0) != 0 || h.Quantile(1) != 1<<63-1 {
		t.Errorf("quantiles %d and %d", h.Quantile(0), h.Quantile(1))
	}
}
