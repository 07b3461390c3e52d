// Package histogram counts durations with a bounded relative error in bounded space,
// after Gil Tene's HdrHistogram. Bucket ranges double in width, and each is cut into
// 128 equal parts, so a quantile is at most 0.8 % above the true one.
package histogram

import (
	"math/bits"
	"time"
)

const (
	subBits = 7 // 128 parts
	parts   = 1 << subBits
)

// Histogram counts durations from 1 ns to 292 years. The zero value is empty. It is not
// safe for concurrent use: use one per goroutine, then Add.
type Histogram struct {
	counts [(64 - subBits) * parts]uint64
	total  uint64
}

// Record counts one duration; a negative one counts as zero.
func (h *Histogram) Record(d time.Duration) {
	h.counts[index(uint64(max(d, 0)))]++
	h.total++
}

// Add adds the counts of other.
func (h *Histogram) Add(other *Histogram) {
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.total += other.total
}

// Count returns the number of recorded durations.
func (h *Histogram) Count() uint64 { return h.total }

// Quantile returns the duration that a share q (0 to 1) of the recorded ones does not
// exceed. It returns 0 if nothing was recorded.
func (h *Histogram) Quantile(q float64) time.Duration {
	rank := max(uint64(q*float64(h.total)+0.5), 1)
	var seen uint64
	for i, n := range h.counts {
		if seen += n; seen >= rank && n > 0 {
			return time.Duration(upper(i))
		}
	}
	return 0
}

func index(v uint64) int {
	shift := max(bits.Len64(v)-subBits-1, 0)
	return shift<<subBits + int(v>>shift)
}

// upper returns the largest value of a bucket.
func upper(i int) uint64 {
	if i < 2*parts {
		return uint64(i)
	}
	shift := i>>subBits - 1
	return uint64(i&(parts-1)+parts+1)<<shift - 1
}
