package tally

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Series is what one webhook's attempts resulted in over a time, in parts of equal
// length.
type Series struct {
	Step  time.Duration
	Parts []Part // oldest first; the last is the present one
	// Answers are the answers of the whole time, the most frequent first.
	Answers  []AnswerCount
	P50, P95 time.Duration // of the whole time
	// Since is the start of the first part that has data; zero if none has.
	Since time.Time
}

// Part is one part of a series.
type Part struct {
	From              time.Time // UTC
	Delivered, Failed int64     // attempts
	// P50 and P95 are quantiles of the time until the answer, accurate to 6 %; zero if
	// there was no answer.
	P50, P95 time.Duration
}

// AnswerCount is how many attempts had an answer: a status, or a class of errors if
// there was none.
type AnswerCount struct {
	Answer string
	Count  int64
}

// Times of a series.
const (
	LastDay   = 24 * time.Hour
	LastWeek  = 7 * 24 * time.Hour
	LastMonth = 30 * 24 * time.Hour
)

// Series returns the series over LastDay, LastWeek or LastMonth, in hours, quarters of a
// day or days.
func (y *Webhook) Series(now time.Time, back time.Duration) Series {
	rows := y.rows()
	switch back {
	case LastWeek:
		return rows[1].series(now)
	case LastMonth:
		return rows[2].series(now)
	}
	return rows[0].series(now)
}

func (s slots) series(now time.Time) Series {
	out := Series{Step: s.length, Parts: make([]Part, len(s.of))}
	length := int64(s.length / time.Second)
	last := now.Unix() / length
	var all Slot
	for i := range out.Parts {
		number := last - int64(len(s.of)-1-i)
		part := &out.Parts[i]
		part.From = time.Unix(number*length, 0).UTC()
		h := s.of[number%int64(len(s.of))]
		if h.Number != number {
			continue
		}
		part.Delivered, part.Failed = h.Delivered, h.Failed
		part.P50, part.P95 = h.quantiles()
		all.add(h, 1)
		if out.Since.IsZero() && h.Delivered+h.Failed > 0 {
			out.Since = part.From
		}
	}
	out.P50, out.P95 = all.quantiles()
	for _, key := range slices.Sorted(maps.Keys(all.Answers)) {
		out.Answers = append(out.Answers, AnswerCount{key, all.Answers[key]})
	}
	slices.SortStableFunc(out.Answers, func(a, b AnswerCount) int { return cmp.Compare(b.Count, a.Count) })
	return out
}

// quantiles returns the times within which 50 and 95 percent of the answers came.
func (s *Slot) quantiles() (p50, p95 time.Duration) {
	var counts [buckets]int64
	var total int64
	for bucket, n := range s.Times {
		if bucket >= 0 && bucket < buckets {
			counts[bucket] += n
			total += n
		}
	}
	return quantile(counts[:], total, 50), quantile(counts[:], total, 95)
}
