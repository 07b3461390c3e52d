// Package tally counts the attempts of webhooks by hour, quarter of a day and day, and
// the accepted events and first attempts of a relay by hour, for people to look at.
//
// It promises that a tally is bounded, costs each attempt a few additions, and that
// tallies which several relays counted can be added without counting anything twice. It
// knows the queue's attempts. It does not know webhooks, and it stores nothing: its
// caller stores the records. Its tests compare quantiles with those of sorted
// values; the relay's tests check the counts over restarts and between relays.
package tally

import (
	"encoding/json"
	"fmt"
	"math/bits"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/userhero/relay/queue"
)

// Hours is how many hours are counted separately, including the present one.
const Hours = 24

// Hour holds the counts of one hour.
type Hour struct {
	From      time.Time // start of the hour, UTC
	Accepted  int64     // events; 0 in the tally of one webhook
	Delivered int64     // deliveries that succeeded
	Failed    int64     // attempts that failed
}

// EndOfHour returns when the hour of t ends.
func EndOfHour(t time.Time) time.Time { return time.Unix((hourOf(t)+1)*3600, 0) }

// hourOf returns the number of hours since 1970.
func hourOf(t time.Time) int64 { return t.Unix() / 3600 }

// Slot counts the attempts of one webhook in one hour, quarter of a day or day. It is
// stored as it is.
type Slot struct {
	Number    int64            `json:"hour"` // hours, quarters or days since 1970
	Delivered int64            `json:"delivered,omitempty"`
	Failed    int64            `json:"failed,omitempty"`
	Answers   map[string]int64 `json:"answers,omitempty"` // by status, or by class if there was none
	Times     map[int]int64    `json:"times,omitempty"`   // of answers, by bucket
}

// mostAnswers bounds the answers that a slot tells apart.
const mostAnswers = 20

// makeMaps makes the maps that the slot lacks. A stored slot lacks each that was empty.
func (s *Slot) makeMaps() {
	if s.Answers == nil {
		s.Answers = make(map[string]int64)
	}
	if s.Times == nil {
		s.Times = make(map[int]int64)
	}
}

// count counts an attempt. key is that of its answer, bucket that of its time; -1 if
// there was no answer.
func (s *Slot) count(ok bool, key string, bucket int) {
	if ok {
		s.Delivered++
	} else {
		s.Failed++
	}
	s.makeMaps()
	if _, known := s.Answers[key]; !known && len(s.Answers) >= mostAnswers {
		key = "other"
	}
	s.Answers[key]++
	if bucket >= 0 {
		s.Times[bucket]++
	}
}

// add adds the counts of other, times a factor.
func (s *Slot) add(other Slot, factor int64) {
	s.Delivered += factor * other.Delivered
	s.Failed += factor * other.Failed
	s.makeMaps()
	for key, n := range other.Answers {
		s.Answers[key] += factor * n
	}
	for bucket, n := range other.Times {
		s.Times[bucket] += factor * n
	}
}

// Webhook holds the last month of one webhook: 24 hours, 28 quarters of a day and 30
// days. The caller serialises the calls.
type Webhook struct {
	hours    [Hours]Slot
	quarters [28]Slot
	days     [30]Slot
}

// slots is a row of slots of one length.
type slots struct {
	length time.Duration
	of     []Slot
}

func (y *Webhook) rows() [3]slots {
	return [3]slots{{time.Hour, y.hours[:]}, {6 * time.Hour, y.quarters[:]}, {24 * time.Hour, y.days[:]}}
}

// at returns the slot that contains t.
func (s slots) at(t time.Time) *Slot {
	number := t.Unix() / int64(s.length/time.Second)
	at := &s.of[number%int64(len(s.of))]
	if at.Number != number {
		*at = Slot{Number: number}
	}
	return at
}

// stored returns the slots in which something happened.
func (s slots) stored() (all []Slot) {
	for _, h := range s.of {
		if h.Delivered > 0 || h.Failed > 0 {
			all = append(all, h)
		}
	}
	return all
}

// restore loads stored slots.
func (s slots) restore(all []Slot) {
	for _, h := range all {
		if h.Number > 0 {
			s.of[h.Number%int64(len(s.of))] = h
		}
	}
}

// Count counts an attempt that ended at t.
func (y *Webhook) Count(t time.Time, a queue.Attempt) {
	key, bucket := a.ErrorClass, -1
	if a.Status != 0 {
		key, bucket = strconv.Itoa(a.Status), bucketOf(a.Duration)
	}
	for _, row := range y.rows() {
		row.at(t).count(a.Error == "", key, bucket)
	}
}

// Stored is the tally of a webhook as a record keeps it.
type Stored struct {
	// Hours, Quarters and Days are the slots in which something happened.
	Hours    []Slot `json:"hours,omitempty"`
	Quarters []Slot `json:"quarters,omitempty"`
	Days     []Slot `json:"days,omitempty"`
}

func (s *Stored) rows() [3]*[]Slot { return [3]*[]Slot{&s.Hours, &s.Quarters, &s.Days} }

// Stored returns the tally as a record keeps it.
func (y *Webhook) Stored() (s Stored) {
	for i, row := range y.rows() {
		*s.rows()[i] = row.stored()
	}
	return s
}

// Restore loads a stored tally into an empty one.
func (y *Webhook) Restore(s Stored) {
	for i, row := range y.rows() {
		row.restore(*s.rows()[i])
	}
}

// Latest returns the present hour and the one before, if something happened in them. It
// leaves out answers and times.
func (y *Webhook) Latest(now time.Time) (latest []Slot) {
	for _, h := range y.rows()[0].stored() {
		if h.Number >= hourOf(now)-1 {
			h.Answers, h.Times = nil, nil
			latest = append(latest, h)
		}
	}
	return latest
}

// With returns the tally with hours that were counted elsewhere. Of an hour that has
// more attempts there, that count is taken. Quarters of a day and days stay.
func (y *Webhook) With(elsewhere []Slot) Webhook {
	shown := *y
	for _, h := range elsewhere {
		hour := &shown.hours[h.Number%Hours]
		if hour.Number < h.Number || hour.Number == h.Number && hour.Delivered+hour.Failed < h.Delivered+h.Failed {
			*hour = h
		}
	}
	return shown
}

// Merge adds to the counts of theirs what ours counted since base.
func Merge(base, ours, theirs Stored) Stored {
	var sum, before Webhook
	sum.Restore(theirs)
	before.Restore(base)
	sums, was := sum.rows(), before.rows()
	for i, row := range ours.rows() {
		for _, h := range *row {
			at := h.Number % int64(len(sums[i].of))
			to := &sums[i].of[at]
			if to.Number > h.Number {
				continue
			}
			if to.Number < h.Number {
				*to = Slot{Number: h.Number}
			}
			to.add(h, 1)
			if old := was[i].of[at]; old.Number == h.Number {
				to.add(old, -1)
			}
		}
	}
	return sum.Stored()
}

// AddTo adds the hours to the day that ends now.
func (y *Webhook) AddTo(day *Day, now time.Time) {
	last := hourOf(now)
	for _, h := range y.hours {
		if ago := last - h.Number; ago >= 0 && ago < Hours {
			hour := &day.Hours[Hours-1-ago]
			hour.Delivered += h.Delivered
			hour.Failed += h.Failed
		}
	}
}

// Day holds the last 24 hours, hour by hour.
type Day struct {
	Hours [Hours]Hour // oldest first; the last is the present one
	// FirstAttempts counts first attempts, successful or not. P50 and P99 are quantiles
	// of the time from an event's acceptance to the end of its first attempt, accurate
	// to 6 %. They are set only for the relay as a whole.
	FirstAttempts int64
	P50, P99      time.Duration
}

// NewDay returns the day that ends now, with nothing counted.
func NewDay(now time.Time) Day {
	var d Day
	for i := range d.Hours {
		d.Hours[i].From = time.Unix((hourOf(now)-int64(Hours-1-i))*3600, 0).UTC()
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

// Relay counts the last day of the relay as a whole. Any goroutine may add to it.
// It takes a lock only once an hour.
type Relay struct {
	turning sync.Mutex // taken to begin an hour
	hours   [Hours]relayHour
}

type relayHour struct {
	hour     atomic.Int64
	accepted atomic.Int64
	first    [buckets]atomic.Int64
}

// at returns the tally of the present hour.
func (y *Relay) at(t time.Time) *relayHour {
	hour := hourOf(t)
	h := &y.hours[hour%Hours]
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

// Accepted counts an event that was accepted at t.
func (y *Relay) Accepted(t time.Time) { y.at(t).accepted.Add(1) }

// First counts a first attempt that ended at t. took is the time since the event's
// acceptance.
func (y *Relay) First(t time.Time, took time.Duration) { y.at(t).first[bucketOf(took)].Add(1) }

// AddTo adds the hours, and the quantiles of all first attempts, to the day that ends
// now.
func (y *Relay) AddTo(day *Day, now time.Time) {
	var all [buckets]int64
	last := hourOf(now)
	for i := range y.hours {
		h := &y.hours[i]
		ago := last - h.hour.Load()
		if ago < 0 || ago >= Hours {
			continue
		}
		day.Hours[Hours-1-ago].Accepted += h.accepted.Load()
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

// Encode returns the tally as it is stored.
func (y *Relay) Encode() []byte {
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

// Decode loads a stored tally.
func (y *Relay) Decode(data []byte) error { return y.Add(nil, data) }

// Add adds what the stored tally `to` counts more than `from`. An empty tally counts
// nothing.
func (y *Relay) Add(from, to []byte) error {
	before, err := decodeTally(from)
	if err != nil {
		return err
	}
	after, err := decodeTally(to)
	if err != nil {
		return err
	}
	for hour, s := range after {
		if y.hours[hour%Hours].hour.Load() > hour {
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
