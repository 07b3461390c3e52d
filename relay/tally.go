package relay

import (
	"encoding/json"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// Tallies count what happened in each hour of the last day, for people to look at. They
// are bounded and cost each attempt one addition. They are stored once an hour and when
// the relay stops. If the process is killed, only the counts since the last store are
// lost.

// TallyHours is how many hours are counted separately, including the present one.
const TallyHours = 24

// Hour holds the counts of one hour.
type Hour struct {
	From      time.Time // start of the hour, UTC
	Accepted  int64     // events; 0 in the tally of one webhook
	Delivered int64     // deliveries that succeeded
	Failed    int64     // attempts that failed
}

// hourOf returns the number of hours since 1970.
func hourOf(t time.Time) int64 { return t.Unix() / 3600 }

// hourTally is the stored form of one hour of one webhook.
type hourTally struct {
	Hour      int64 `json:"hour"`
	Delivered int64 `json:"delivered,omitempty"`
	Failed    int64 `json:"failed,omitempty"`
}

// tally holds the last day of one webhook. The webhook's mutex guards it.
type tally [TallyHours]hourTally

// at returns the tally of the hour that contains t.
func (y *tally) at(t time.Time) *hourTally {
	hour := hourOf(t)
	h := &y[hour%TallyHours]
	if h.Hour != hour {
		*h = hourTally{Hour: hour}
	}
	return h
}

// stored returns the hours in which something happened.
func (y *tally) stored() (hours []hourTally) {
	for _, h := range y {
		if h.Delivered > 0 || h.Failed > 0 {
			hours = append(hours, h)
		}
	}
	return hours
}

// restore loads the stored hours.
func (y *tally) restore(hours []hourTally) {
	for _, h := range hours {
		if h.Hour > 0 {
			y[h.Hour%TallyHours] = h
		}
	}
}

// addTo adds the hours to the day that ends now.
func (y *tally) addTo(day *Day, now time.Time) {
	last := hourOf(now)
	for _, h := range y {
		if ago := last - h.Hour; ago >= 0 && ago < TallyHours {
			slot := &day.Hours[TallyHours-1-ago]
			slot.Delivered += h.Delivered
			slot.Failed += h.Failed
		}
	}
}

// Day holds the last 24 hours, hour by hour.
type Day struct {
	Hours [TallyHours]Hour // oldest first; the last is the present one
	// FirstAttempts counts first attempts, successful or not. P50 and P99 are quantiles
	// of the time from an event's acceptance to the end of its first attempt, accurate
	// to 6 %. They are set only for the relay as a whole.
	FirstAttempts int64
	P50, P99      time.Duration
}

func newDay(now time.Time) Day {
	var d Day
	for i := range d.Hours {
		d.Hours[i].From = time.Unix((hourOf(now)-int64(TallyHours-1-i))*3600, 0).UTC()
	}
	return d
}

// Sum returns the total of all hours.
func (d Day) Sum() (sum Hour) {
	sum.From = d.Hours[0].From
	for _, h := range d.Hours {
		sum.Accepted += h.Accepted
		sum.Delivered += h.Delivered
		sum.Failed += h.Failed
	}
	return sum
}

// The times of first attempts are counted in buckets, eight for each power of two of
// microseconds. A bucket is at most an eighth of its value wide.
const buckets = 8 * 33 // up to 2^35 µs, more than nine hours

func bucketOf(d time.Duration) int {
	us := uint64(max(d.Microseconds(), 0))
	if us < 8 {
		return int(us)
	}
	power := bits.Len64(us) - 1
	return min((power-2)*8+int(us>>(power-3))&7, buckets-1)
}

// middleOf returns the middle of a bucket.
func middleOf(bucket int) time.Duration {
	if bucket < 8 {
		return time.Duration(bucket) * time.Microsecond
	}
	power := bucket/8 + 2
	width := uint64(1) << (power - 3)
	return time.Duration((8+uint64(bucket%8))*width+width/2) * time.Microsecond
}

// relayTally counts the last day of the relay as a whole. Any goroutine may add to it.
// It takes a lock only once an hour.
type relayTally struct {
	turning sync.Mutex // taken to begin an hour
	hours   [TallyHours]relayHour
}

type relayHour struct {
	hour     atomic.Int64
	accepted atomic.Int64
	first    [buckets]atomic.Int64
}

// at returns the tally of the present hour.
func (y *relayTally) at(t time.Time) *relayHour {
	hour := hourOf(t)
	h := &y.hours[hour%TallyHours]
	if h.hour.Load() == hour {
		return h
	}
	y.turning.Lock()
	defer y.turning.Unlock()
	if h.hour.Load() != hour {
		h.accepted.Store(0)
		for i := range h.first {
			h.first[i].Store(0)
		}
		h.hour.Store(hour)
	}
	return h
}

func (y *relayTally) accepted(t time.Time) { y.at(t).accepted.Add(1) }

// first counts a first attempt that ended at t. took is the time since the event's
// acceptance.
func (y *relayTally) first(t time.Time, took time.Duration) { y.at(t).first[bucketOf(took)].Add(1) }

func (y *relayTally) addTo(day *Day, now time.Time) {
	var all [buckets]int64
	last := hourOf(now)
	for i := range y.hours {
		h := &y.hours[i]
		ago := last - h.hour.Load()
		if ago < 0 || ago >= TallyHours {
			continue
		}
		day.Hours[TallyHours-1-ago].Accepted += h.accepted.Load()
		for b := range all {
			n := h.first[b].Load()
			all[b] += n
			day.FirstAttempts += n
		}
	}
	day.P50, day.P99 = quantile(all[:], day.FirstAttempts, 50), quantile(all[:], day.FirstAttempts, 99)
}

// quantile returns the time within which the given percentage of the first attempts
// ended.
func quantile(counts []int64, total int64, percent int64) time.Duration {
	rank := (total*percent + 99) / 100 // the smallest count that reaches the percentage
	for b, n := range counts {
		if rank -= n; n > 0 && rank <= 0 {
			return middleOf(b)
		}
	}
	return 0
}

// storedHour is one hour of the relay as it is stored.
type storedHour struct {
	Hour     int64         `json:"hour"`
	Accepted int64         `json:"accepted"`
	First    map[int]int64 `json:"first,omitempty"` // by bucket
}

// tallyRecord is the name of the record that holds the relay's own tally. It is not a
// valid webhook name.
const tallyRecord = ".tally"

func (y *relayTally) encode() []byte {
	var stored []storedHour
	for i := range y.hours {
		h := &y.hours[i]
		s := storedHour{Hour: h.hour.Load(), Accepted: h.accepted.Load(), First: make(map[int]int64)}
		for b := range h.first {
			if n := h.first[b].Load(); n > 0 {
				s.First[b] = n
			}
		}
		if s.Accepted > 0 || len(s.First) > 0 {
			stored = append(stored, s)
		}
	}
	b, err := json.Marshal(stored)
	if err != nil {
		panic(err) // numbers always marshal
	}
	return b
}

// decode loads a stored tally.
func (y *relayTally) decode(data []byte) error { return y.add(nil, data) }

// add adds what the stored tally `to` counts more than `from`. An empty tally counts
// nothing.
func (y *relayTally) add(from, to []byte) error {
	before, err := decodeTally(from)
	if err != nil {
		return err
	}
	after, err := decodeTally(to)
	if err != nil {
		return err
	}
	for hour, s := range after {
		if y.hours[hour%TallyHours].hour.Load() > hour {
			continue // a day ago, or more
		}
		h := y.at(time.Unix(hour*3600, 0))
		was := before[hour]
		h.accepted.Add(s.Accepted - was.Accepted)
		for b, n := range s.First {
			if b >= 0 && b < buckets {
				h.first[b].Add(n - was.First[b])
			}
		}
	}
	return nil
}

// decodeTally returns the hours of a stored tally, by number.
func decodeTally(data []byte) (map[int64]storedHour, error) {
	hours := make(map[int64]storedHour)
	if len(data) == 0 {
		return hours, nil
	}
	var stored []storedHour
	if err := json.Unmarshal(data, &stored); err != nil {
		return nil, fmt.Errorf("reading the tally: %w", err)
	}
	for _, s := range stored {
		if s.Hour > 0 {
			hours[s.Hour] = s
		}
	}
	return hours, nil
}
