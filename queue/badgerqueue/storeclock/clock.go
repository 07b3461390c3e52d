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
	// ShiftStep is how far the time of day must move against the store's own time before
	// the clock notices. A smaller move is an ordinary correction of the machine's clock.
	ShiftStep = 20 * time.Millisecond
	// shiftKeep is how far the time of day must move to be written in a commit of its own.
	// A smaller move is written with the next commit.
	shiftKeep = time.Second
	// slack is how far a time of day may be ahead of the store's time and still be valid.
	slack = time.Minute
	// mostWait is the longest time that a delivery may wait.
	mostWait = 100 * 365 * 24 * time.Hour
)

// Clock is the time of one store. It begins with the time of day when the store is made,
// and it only runs forwards:
//
//   - While the store is open, it follows the runtime's clock plus the time that the
//     machine slept. Setting the time of day does not change it.
//   - While the store is closed, it follows the time of day, but never goes back. So no
//     delivery waits longer than requested, even if the time of day was set back.
//
// shift is how far the time of day is ahead of the clock. It converts the store's times to
// the time of day. The store's counters hold it, together with the time of the last commit.
// If the time of day is set forward while the store is closed, the clock cannot distinguish
// that from time that has passed.
type Clock struct {
	system queue.Clock
	start  time.Time // when Resume was called, by the runtime's clock
	base   time.Time // the store's time at start
	asleep time.Duration
	slept  atomic.Int64 // how long the machine slept since start, as last read
	shift  atomic.Int64
}

// New returns a clock that Resume must start.
func New(system queue.Clock) *Clock { return &Clock{system: system} }

// Shift returns how far the time of day is ahead, as last read.
func (c *Clock) Shift() time.Duration { return time.Duration(c.shift.Load()) }

// Resume starts the clock of a store. Its last commit was at the time `at` by the store's
// clock, when the time of day was ahead by shift. Both are zero if the store has no commit.
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

// Now returns the store's time.
func (c *Clock) Now() time.Time {
	return c.base.Add(time.Since(c.start) + time.Duration(c.slept.Load()))
}

// At converts a time that a caller computed from time.Now to the store's time. It returns
// now for a time that has passed, such as the zero time: a key with an earlier time would
// move the low-water mark of its rung back, and a key with a time before 1970 would sort
// after all others. At also limits times in the far future, because the nanoseconds of a
// time after 2262 do not fit in 64 bits.
func (c *Clock) At(t time.Time) time.Time {
	left := min(max(time.Until(t), 0), mostWait) // read this first: time that passes before c.Now may only make the result later
	return c.Now().Add(left)
}

// ReadSlept returns how long the machine has slept since the last call. Timers did not run
// in that time.
func (c *Clock) ReadSlept() time.Duration {
	total := int64(c.system.Slept() - c.asleep)
	return time.Duration(total - c.slept.Swap(total))
}

// ReadShift reads the time of day and returns how far it is ahead.
func (c *Clock) ReadShift() int64 {
	shift := int64(c.system.Wall().Sub(c.Now()))
	if moved := time.Duration(shift - c.shift.Load()); moved.Abs() >= ShiftStep {
		c.shift.Store(shift)
	}
	return c.shift.Load()
}

// MovedFrom reports whether the time of day has moved so far from a shift that the change
// needs a commit of its own.
func (c *Clock) MovedFrom(shift int64) bool {
	return time.Duration(c.ReadShift()-shift).Abs() >= shiftKeep
}

// Wall converts the store's time to the time of day. It returns the zero time for zero.
func (c *Clock) Wall(t int64) time.Time {
	if t == 0 {
		return time.Time{}
	}
	return time.Unix(0, t+c.shift.Load()).UTC()
}

// Own converts a time of day to the store's time. If the time is ahead of the store's, it
// was read from a clock that was set back later. Own then returns now, and ahead is set.
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
