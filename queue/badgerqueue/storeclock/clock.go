// Package storeclock is the store's own time, in which everything waits and ends.
//
// It promises to run only forwards, whatever is done to the time of day, and to turn
// its times into the time of day and back. It knows nothing of what waits. The tests
// of badgerqueue set its clocks.
package storeclock

import (
	"sync/atomic"
	"time"

	"github.com/userhero/relay/queue"
)

const (
	// ShiftStep is how far the time of day must have moved against the store's
	// own before that is noticed: less is the machine's clock being disciplined.
	ShiftStep = 20 * time.Millisecond
	// shiftKeep is how far it must have moved to be written for its own sake; less
	// rides in the next commit.
	shiftKeep = time.Second
	// slack is how far ahead of the store's time a time of day may be and still count.
	slack = time.Minute
	// mostWait is the longest that anything waits.
	mostWait = 100 * 365 * 24 * time.Hour
)

// Clock is the time of one store. It begins
// with the time of day when the store is made and only runs forwards:
//
//   - while the store is open, with the runtime's clock and what the machine
//     slept, whatever is done to the time of day;
//   - while it is closed, with the time of day, and at the least it stands
//     still. So no delivery waits for longer than was asked for, however far
//     the time of day was set back.
//
// shift is how far the time of day is ahead of it; it is kept with the store's
// counters, like the time of the last commit, and turns what is shown into the
// time of day. Only a time of day that was set forward while nobody had the
// store open cannot be told from time that passed.
type Clock struct {
	system queue.Clock
	start  time.Time // by the runtime's clock
	base   time.Time // the store's time at start
	asleep time.Duration
	slept  atomic.Int64 // since start, as last read
	shift  atomic.Int64
}

// New returns a clock that Resume must start.
func New(system queue.Clock) *Clock { return &Clock{system: system} }

// Shift is how far the time of day is ahead, as last read.
func (c *Clock) Shift() time.Duration { return time.Duration(c.shift.Load()) }

// Resume starts the clock of a store whose last commit was at `at` by its own
// time, when the time of day was ahead by shift. Zero is a store that has none.
func (c *Clock) Resume(at, shift int64) {
	c.start, c.asleep = time.Now(), c.system.Slept()
	c.slept.Store(0)
	c.shift.Store(shift)
	c.base = c.system.Wall().Add(-time.Duration(shift))
	if last := time.Unix(0, at); at != 0 && c.base.Before(last) {
		c.base = last
	}
	c.ReadShift()
}

// Now is the store's time.
func (c *Clock) Now() time.Time {
	return c.base.Add(time.Since(c.start) + time.Duration(c.slept.Load()))
}

// At turns a time that a caller computed from time.Now into the store's. A time
// that has passed, such as the zero time, is now: a key of an earlier time would
// move the low-water mark of its rung back, or, before 1970, sort behind all others.
// So would one after 2262, which has no nanoseconds in 64 bits.
func (c *Clock) At(t time.Time) time.Time {
	left := min(max(time.Until(t), 0), mostWait) // first: what passes between the two may only make it later
	return c.Now().Add(left)
}

// ReadSlept returns how long the machine has slept since the last call: timers
// have waited through that.
func (c *Clock) ReadSlept() time.Duration {
	total := int64(c.system.Slept() - c.asleep)
	return time.Duration(total - c.slept.Swap(total))
}

// ReadShift looks at the time of day, and tells how far it is ahead.
func (c *Clock) ReadShift() int64 {
	shift := int64(c.system.Wall().Sub(c.Now()))
	if moved := time.Duration(shift - c.shift.Load()); moved.Abs() >= ShiftStep {
		c.shift.Store(shift)
	}
	return c.shift.Load()
}

// MovedFrom reports whether the time of day has moved so far from a shift that this is
// to be written for its own sake.
func (c *Clock) MovedFrom(shift int64) bool {
	return time.Duration(c.ReadShift()-shift).Abs() >= shiftKeep
}

// Wall turns the store's time into the time of day; zero stays zero.
func (c *Clock) Wall(t int64) time.Time {
	if t == 0 {
		return time.Time{}
	}
	return time.Unix(0, t+c.shift.Load()).UTC()
}

// Own turns a time of day into the store's. Ahead says that it was read from a
// clock that has been set back since; it counts as now.
func (c *Clock) Own(t time.Time) (own time.Time, ahead bool) {
	own, now := t.Add(-time.Duration(c.shift.Load())), c.Now()
	if own.After(now.Add(slack)) {
		return now, true
	}
	return own, false
}

// System is the machine's clock.
type System struct{}

// Wall implements queue.Clock.
func (System) Wall() time.Time { return time.Now().Round(0) }

// Slept implements queue.Clock.
func (System) Slept() time.Duration { return slept() }
